"""Provide shifted-window attention with relative position bias (paper, Swin blocks)."""

from kernels.attention.api import window_attention
from kernels.attention.prepare import prepare_bias
from kernels.attention.reference import region_mask, relative_bias

__all__ = ["prepare_bias", "region_mask", "relative_bias", "window_attention"]
