"""Decode the encoder's features into a mask and labels.

In the order of the data: dilated feature enhancement (DFE) refines every level, the segmentation decoder turns the
refined levels into mask logits, and the classification head reads the levels as the encoder left them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.layers import ConvNorm


class DFE(nn.Module):
    """Refine one level: sum the dilated branches, then ReLU and spatial attention, without a shortcut.

    This is the form that is trained. `model.inference.kernel_modules.FusedDFE` computes the same in one sum of
    convolutions.
    """

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(DilatedBranch(channels, dilation) for dilation in dilations)
        self.attention = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        total = torch.stack([branch(x) for branch in self.branches]).sum(dim=0)
        out: Tensor = self.attention(F.relu(total))
        return out


class DilatedBranch(nn.Sequential):
    """Run a 3x3 dilated and a 1x1 convolution, each with batch norm and neither with an activation."""

    def __init__(self, channels: int, dilation: int) -> None:
        # Being linear, the branch folds into one dilated convolution for inference: an activation here would forbid it.
        super().__init__(ConvNorm(channels, channels, 3, dilation=dilation), ConvNorm(channels, channels, 1))
        self.dilation = dilation


class SpatialAttention(nn.Module):
    """Weight each place: x * sigmoid(conv7x7([mean over channels, max over channels]))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        summary = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)  # [B, 2, H, W]
        return x * torch.sigmoid(self.conv(summary))


class Decoder(nn.Module):
    """Turn enhanced levels into mask logits: three up-blocks, bilinear x2, 1x1 convolution without bias.

    With `full_resolution` a fourth block takes the place of the bilinear x2.
    """

    def __init__(self, channels: Sequence[int], seg_channels: int, *, full_resolution: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(UpBlock(channels[i + 1], channels[i]) for i in reversed(range(3)))
        self.finest = FinestBlock(channels[0]) if full_resolution else None
        self.classify = nn.Conv2d(channels[0] // (2 if full_resolution else 1), seg_channels, 1, bias=False)

    def forward(self, features: Sequence[Tensor], image: Tensor) -> Tensor:
        """Map four enhanced levels, finest first, and the image (B, 3, H, W) to logits (B, K, H, W)."""
        x = features[3]
        for block, skip in zip(self.blocks, reversed(features[:3]), strict=True):
            x = block(x, skip)
        # The finest level has half the image's size. Corners are aligned as in the paper's network.
        if self.finest is None:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        else:
            x = self.finest(x, image)
        logits: Tensor = self.classify(x)
        return logits


class UpBlock(nn.Module):
    """Enlarge by a 2x2 transposed convolution, concatenate the skip, then 3x3 convolution, batch norm, ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(c_in, c_out, 2, stride=2)
        self.conv = ConvNorm(2 * c_out, c_out, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map x (B, C_in, H, W) and skip (B, C_out, 2H, 2W) to (B, C_out, 2H, 2W)."""
        return F.relu(self.conv(torch.cat([self.up(x), skip], dim=1)))


class FinestBlock(nn.Module):
    """Enlarge to the image's size with half of the channels, and a skip of a 3x3 convolution of the image.

    What is smaller than two pixels is lost in the finest level, and only the image still shows it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.skip = ConvNorm(3, channels // 2, 3)
        self.block = UpBlock(channels, channels // 2)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Map x (B, C, H / 2, W / 2) and the image (B, 3, H, W) to (B, C / 2, H, W)."""
        out: Tensor = self.block(x, F.relu(self.skip(image)))
        return out


class MultiScaleHead(nn.Module):
    """Classify from several levels: batch norm, ReLU and average pool of each, concatenation, two linear layers."""

    def __init__(self, channels: Sequence[int], labels: int) -> None:
        """Make a head over levels of these channels, in the order in which `forward` gets them."""
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels)
        # No activation between the two, as in the paper's network.
        self.classify = nn.Sequential(nn.Linear(sum(channels), 32), nn.Linear(32, labels))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map levels (B, C_i, H_i, W_i) to logits (B, labels)."""
        pooled = [F.relu(norm(x)).mean(dim=(2, 3)) for norm, x in zip(self.norms, features, strict=True)]
        logits: Tensor = self.classify(torch.cat(pooled, dim=1))
        return logits

    def divide_logits(self, temperatures: Tensor) -> None:
        """Divide the logits of all later calls by temperatures (labels,)."""
        # In the weights of the last layer, which is exact: no engine has to do anything for it.
        last = self.classify[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.div_(temperatures[:, None])
            last.bias.div_(temperatures)
