"""The two operations this project adds: windowed attention and the three-branch dilated convolution.

A network that no longer trains prepares their weights once (`prepare_bias`, `pack_taps`) and hands them in.
"""

from kernels.attention import prepare_bias, region_mask, relative_bias, window_attention
from kernels.dilated import dilated_fusion, pack_taps
from kernels.dispatch import Impl
from kernels.errors import KernelInputError

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
