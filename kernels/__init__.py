"""The two operations this project adds: windowed attention and the three-branch dilated convolution.

Each comes twice: as the operation itself, and with its weights prepared once, for a network that no longer trains.
"""

from kernels.attention import prepare_bias, prepared_window_attention, window_attention
from kernels.dilated import dilated_fusion, pack_taps, prepared_dilated_fusion
from kernels.errors import KernelInputError

__all__ = [
    "KernelInputError",
    "dilated_fusion",
    "pack_taps",
    "prepare_bias",
    "prepared_dilated_fusion",
    "prepared_window_attention",
    "window_attention",
]
