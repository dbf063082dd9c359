"""Rewrite the decoder's side for one map size: only the dilated taps that reach the map, and classes before pixels."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.inference import fold_branch
from model.network.decoder import DFE, Decoder, DilatedBranch


class StaticDFE(nn.Module):
    """Run DFE on maps of one size: the sum of the convolutions that are left, ReLU, and the spatial attention."""

    def __init__(self, dfe: DFE, side: int) -> None:
        """Fold the branches of `dfe` for square maps of `side` pixels."""
        super().__init__()
        branches = [cast(DilatedBranch, branch) for branch in dfe.branches]
        weights, biases = zip(*(fold_branch(branch) for branch in branches), strict=True)
        live = live_branches(weights, [branch.dilation for branch in branches], side)
        self.convs = nn.ModuleList(_convolution(weight, dilation) for dilation, weight in live.items())
        # The branches are summed, so one convolution can add the biases of all of them.
        cast(nn.Conv2d, self.convs[0]).bias = nn.Parameter(torch.stack(biases).sum(dim=0), requires_grad=False)
        self.attention = dfe.attention

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, side, side) to the same shape."""
        total = self.convs[0](x)
        for conv in self.convs[1:]:
            total = total + conv(x)
        out: Tensor = self.attention(F.relu(total))
        return out


def live_branches(weights: Sequence[Tensor], dilations: Sequence[int], side: int) -> dict[int, Tensor]:
    """Reduce dilated convolutions to the fewest that have the same sum on a `side` x `side` map.

    Proof: convolution is linear in its weight, so branches of one dilation are one branch with the sum of their
    weights. An outer tap of dilation d reads at distance d from the output pixel, so with d >= side it reads zero
    padding everywhere, and the branch is its centre tap, a 1x1 convolution. A 1x1 convolution adds to the centre tap of
    any other branch, because W x + V x = (W + V) x. A branch that keeps outer taps needs them for some pixel.

    Args:
        weights: (C_out, C_in, 3, 3) of each branch.
        dilations: of each branch, in any order and repeated or not.
        side: of the map in pixels.

    Returns:
        Weights by dilation: (C_out, C_in, 3, 3), or a single (C_out, C_in, 1, 1) where no outer tap reaches the map.
    """
    # Runtimes skip rows of taps in the padding by themselves. Splitting the kernel to crop columns as well was measured
    # in OpenVINO at 14, 28, 56 and 112 px and was no faster, so branches with outer taps stay whole.
    live: dict[int, Tensor] = {}
    centres: list[Tensor] = []
    for weight, dilation in zip(weights, dilations, strict=True):
        if dilation >= side:
            centres.append(weight[:, :, 1:2, 1:2])
        else:
            live[dilation] = live[dilation] + weight if dilation in live else weight
    if not centres:
        return live
    centre = torch.stack(centres).sum(dim=0)
    if not live:
        return {1: centre}
    first = next(iter(live))
    return live | {first: live[first] + F.pad(centre, (1, 1, 1, 1))}


def _convolution(weight: Tensor, dilation: int) -> nn.Conv2d:
    c_out, c_in, kernel, _ = weight.shape
    conv = nn.Conv2d(c_in, c_out, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    return conv


class ClassifyFirst(nn.Module):
    """Run the decoder that ends in an upsampling with its 1x1 convolution before that.

    Proof: bilinear upsampling U does the same to every channel, and the 1x1 convolution A (without bias) does the same
    to every pixel, so A (U x) = U (A x). K channels are upsampled instead of C, and A runs on a quarter of the pixels.
    """

    def __init__(self, decoder: Decoder) -> None:
        """Take over the decoder's weights."""
        super().__init__()
        self.blocks, self.classify = decoder.blocks, decoder.classify

    def forward(self, features: Sequence[Tensor], image: Tensor) -> Tensor:
        """Map the four enhanced maps, finest first, to logits (B, K, H, W) at the image's size."""
        x = features[3]  # the coarsest map, which has no skip connection
        for block, skip in zip(self.blocks, reversed(features[:3]), strict=True):
            x = block(x, skip)
        return F.interpolate(self.classify(x), scale_factor=2, mode="bilinear", align_corners=True)
