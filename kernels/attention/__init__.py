"""Shifted-window attention with relative position bias (paper, Swin blocks)."""

from kernels.attention.api import prepared_window_attention, window_attention
from kernels.attention.bias import prepare_bias

__all__ = ["prepare_bias", "prepared_window_attention", "window_attention"]
