"""Swin blocks (arXiv 2103.14030): windowed attention with relative position bias, every second one shifted."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels import window_attention
from model.network.layers import ChannelGate, DropPath


class WindowAttention(nn.Module):
    """Projections around `kernels.window_attention`, which does partition, shift, bias and mask."""

    def __init__(self, channels: int, head_dim: int, window_size: int, shifted: bool) -> None:
        super().__init__()
        self.num_heads = channels // head_dim
        self.scale = head_dim**-0.5
        self.window_size = window_size
        self.shift_size = window_size // 2 if shifted else 0
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, self.num_heads))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        mixed = window_attention(
            self.qkv(tokens),
            self.bias_table,
            num_heads=self.num_heads,
            window_size=self.window_size,
            shift_size=self.shift_on(tokens),
            scale=self.scale,
        )
        out: Tensor = self.proj(mixed)
        return out

    def shift_on(self, tokens: Tensor) -> int:
        """A map of one window is not shifted: there is nothing to exchange with."""
        one_window = min(tokens.shape[1], tokens.shape[2]) <= self.window_size
        return 0 if one_window else self.shift_size


class SwinBlock(nn.Module):
    """Attention and MLP (ratio 4, GELU, closed by a channel gate), each behind a layer norm and a residual."""

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
        """(B, H, W, C) to the same shape."""
        tokens = tokens + self.drop_path(self.attention(self.norm1(tokens)))
        out: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return out


class SwinStage(nn.Sequential):
    """One block for each rate in `drop_path`; every second block is shifted."""

    def __init__(self, channels: int, head_dim: int, window_size: int, drop_path: Sequence[float]) -> None:
        super().__init__(
            *(SwinBlock(channels, head_dim, window_size, i % 2 == 1, rate) for i, rate in enumerate(drop_path))
        )
