"""The segmentation decoder: transposed convolutions up from the deepest level, each joined with the enhanced skip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import ConvNorm


class UpBlock(nn.Module):
    """2x2 transposed convolution with stride 2, concatenation with the skip, 3x3 convolution, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(c_in, c_out, 2, stride=2)
        self.conv = ConvNorm(2 * c_out, c_out, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """x (B, C_in, H, W) and skip (B, C_out, 2H, 2W) to (B, C_out, 2H, 2W)."""
        return F.relu(self.conv(torch.cat([self.up(x), skip], dim=1)))


class Decoder(nn.Module):
    """Three up-blocks, then bilinear x2 with aligned corners and a 1x1 convolution without bias to the mask logits."""

    def __init__(self, channels: Sequence[int], seg_channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(UpBlock(channels[i + 1], channels[i]) for i in reversed(range(3)))
        self.classify = nn.Conv2d(channels[0], seg_channels, 1, bias=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Four enhanced maps, finest first, to logits (B, K, H, W) at the image's size."""
        x = features[3]
        for block, skip in zip(self.blocks, reversed(features[:3]), strict=True):
            x = block(x, skip)
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        logits: Tensor = self.classify(x)
        return logits
