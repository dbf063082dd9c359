"""Provide the two operations this project adds: windowed attention and the fused dilated convolution.

A network whose weights no longer change prepares them once (`prepare_bias`, `pack_taps`) and passes the result to each
call. `README.md` is the guide to this package.
"""

# The first of them: it prepares for Ctrl-C while the others are imported.
from kernels import startup as startup
from kernels.attention import prepare_bias, region_mask, relative_bias, window_attention
from kernels.dilated import dilated_fusion, pack_taps
from kernels.dispatch import Impl, KernelInputError

__all__ = [
    "Impl",
    "KernelInputError",
    "dilated_fusion",
    "pack_taps",
    "prepare_bias",
    "region_mask",
    "relative_bias",
    "window_attention",
]
