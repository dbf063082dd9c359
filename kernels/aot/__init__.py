"""Compile the kernels ahead of time, without a GPU, and read what the compiler made of them."""
