"""Execute the PTX of our kernels on a CPU, every thread of several blocks in lockstep over NumPy arrays.

What it cannot see: the assembler and its machine code (registers, spills), the rounding of tensor cores and of `ex2`,
speed, streams, several GPUs.
"""
