"""The token path's way in and down: multi-scale patch embedding and patch merging, both channels last."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.layers import ChannelGate, to_channels_first, to_channels_last


class MultiScaleConv(nn.Module):
    """Parallel stride-2 convolutions of several kernel sizes, concatenated and closed by a channel gate.

    Each even kernel k is padded by (k - 2) / 2, so that all of them give H/2 x W/2.
    """

    def __init__(self, c_in: int, outputs: dict[int, int]) -> None:
        """outputs: output channels of each kernel size."""
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(c_in, c_out, kernel, stride=2, padding=(kernel - 2) // 2) for kernel, c_out in outputs.items()
        )
        self.gate = ChannelGate()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, H/2, W/2, sum of outputs)."""
        tokens: Tensor = self.gate(to_channels_last(torch.cat([conv(x) for conv in self.convs], dim=1)))
        return tokens


class PatchEmbedding(nn.Module):
    """Kernels 2, 4, 8, 16 on the image with C/2, C/4, C/8, C/8 channels; gate; layer norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scales = MultiScaleConv(3, {2: channels // 2, 4: channels // 4, 8: channels // 8, 16: channels // 8})
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, H/2, W/2, C)."""
        tokens: Tensor = self.norm(self.scales(image))
        return tokens


class PatchMerging(nn.Module):
    """Layer norm; kernels 2 and 4 with C channels each; gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.scales = MultiScaleConv(channels, {2: channels, 4: channels})

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H/2, W/2, 2C)."""
        merged: Tensor = self.scales(to_channels_first(self.norm(tokens)))
        return merged
