"""Attend within windows: Swin blocks (arXiv 2103.14030) with relative position bias, every second one shifted.

From the whole to its parts: a stage, a block of it, and the attention of a block.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels import Impl, window_attention
from model.network.layers import ChannelGate, DropPath


class SwinStage(nn.Sequential):
    """Run one block for each rate in `drop_path`, every second of them shifted."""

    def __init__(self, channels: int, head_dim: int, window_size: int, drop_path: Sequence[float]) -> None:
        # Without the shift, the attention of a stage would never cross a window's border.
        super().__init__(
            *(SwinBlock(channels, head_dim, window_size, i % 2 == 1, rate) for i, rate in enumerate(drop_path))
        )


class SwinBlock(nn.Module):
    """Run attention and an MLP (ratio 4, GELU, channel gate), each after a layer norm and with a shortcut."""

    def __init__(self, channels: int, head_dim: int, window_size: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, head_dim, window_size, shifted)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels), ChannelGate()
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens)))
        out: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return out


class WindowAttention(nn.Module):
    """Project around `kernels.window_attention`, which does partition, shift, bias and mask.

    impl: which implementation of it runs.
    """

    def __init__(self, channels: int, head_dim: int, window_size: int, shifted: bool) -> None:
        super().__init__()
        self.impl: Impl = "auto"
        self.num_heads = channels // head_dim
        self.scale = head_dim**-0.5
        self.window_size = window_size
        self.shift_size = window_size // 2 if shifted else 0
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        # Two tokens of a window are at most window_size - 1 apart either way, in each direction.
        self.bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, self.num_heads))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        # The map goes in and out in image layout: the kernel indexes windows, so that none are copied into memory.
        mixed = window_attention(
            self.qkv(tokens),
            self.bias_table,
            num_heads=self.num_heads,
            window_size=self.window_size,
            shift_size=self.shift_on(tokens),
            scale=self.scale,
            impl=self.impl,
        )
        out: Tensor = self.proj(mixed)
        return out

    def shift_on(self, tokens: Tensor) -> int:
        """Return the shift for a map (B, H, W, C), which is 0 where the map is one window wide or high."""
        # One window has no neighbour to exchange tokens with, as in Swin's own code.
        one_window = min(tokens.shape[1], tokens.shape[2]) <= self.window_size
        return 0 if one_window else self.shift_size
