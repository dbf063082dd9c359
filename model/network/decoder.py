"""Decode the encoder's features: dilated feature enhancement (DFE), segmentation decoder, classification head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.layers import ConvNorm


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

    Being linear, it folds into one dilated convolution for inference (model.inference.fold).
    """

    def __init__(self, channels: int, dilation: int) -> None:
        self.dilation = dilation
        super().__init__(ConvNorm(channels, channels, 3, dilation=dilation), ConvNorm(channels, channels, 1))


class DFE(nn.Module):
    """The form that is trained; `model.inference.fold.FusedDFE` is the same function in one convolution sum."""

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(DilatedBranch(channels, dilation) for dilation in dilations)
        self.attention = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        total = torch.stack([branch(x) for branch in self.branches]).sum(dim=0)
        out: Tensor = self.attention(F.relu(total))
        return out


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


class MultiScaleHead(nn.Module):
    """Each level: batch norm, ReLU, global average pool; concatenated; linear to 32, linear to the labels."""

    def __init__(self, channels: Sequence[int], labels: int) -> None:
        """channels: of the levels that `forward` will get, in order."""
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels)
        self.classify = nn.Sequential(nn.Linear(sum(channels), 32), nn.Linear(32, labels))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, H_i, W_i) to logits (B, labels)."""
        pooled = [F.relu(norm(x)).mean(dim=(2, 3)) for norm, x in zip(self.norms, features, strict=True)]
        logits: Tensor = self.classify(torch.cat(pooled, dim=1))
        return logits
