"""Shifted-window attention with relative position bias (paper, Swin blocks)."""

from kernels.attention.api import window_attention

__all__ = ["window_attention"]
