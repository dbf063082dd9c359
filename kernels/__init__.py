"""The two operations this project adds: windowed attention and the three-branch dilated convolution."""

from kernels.attention import window_attention
from kernels.dilated import dilated_fusion
from kernels.errors import KernelInputError

__all__ = ["KernelInputError", "dilated_fusion", "window_attention"]
