"""What the two kernels cost at the stages of the paper, modelled: `python -m bench.kernels`."""
