"""Dilated feature enhancement (DFE): three dilated branches summed, ReLU, spatial attention; channels are preserved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import ConvNorm


class SpatialAttention(nn.Module):
    """x * sigmoid(conv7x7([mean over channels, max over channels]))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        summary = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(summary))


class DilatedBranch(nn.Sequential):
    """3x3 dilated convolution and 1x1 convolution, each with batch norm and neither with an activation.

    Being linear, it folds into one dilated convolution for inference (model.inference).
    """

    def __init__(self, channels: int, dilation: int) -> None:
        self.dilation = dilation
        super().__init__(ConvNorm(channels, channels, 3, dilation=dilation), ConvNorm(channels, channels, 1))


class DFE(nn.Module):
    """The form that is trained; `model.inference.FusedDFE` is the same function in one convolution sum."""

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(DilatedBranch(channels, dilation) for dilation in dilations)
        self.attention = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        total = torch.stack([branch(x) for branch in self.branches]).sum(dim=0)
        out: Tensor = self.attention(F.relu(total))
        return out
