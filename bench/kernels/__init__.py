"""Model the cost of the two kernels at the stages of the paper: `python -m bench.kernels`."""
