"""DFE for one map size: only the taps that reach the map."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.inference.fold import fold_branch
from model.network.decoder import DFE, DilatedBranch


class StaticDFE(nn.Module):
    """DFE on maps of one size as a sum of the convolutions that are left, ReLU and the spatial attention."""

    def __init__(self, dfe: DFE, side: int) -> None:
        """side: of the square map."""
        super().__init__()
        branches = [cast(DilatedBranch, branch) for branch in dfe.branches]
        weights, biases = zip(*(fold_branch(branch) for branch in branches), strict=True)
        live = live_branches({branch.dilation: weight for branch, weight in zip(branches, weights, strict=True)}, side)
        self.convs = nn.ModuleList(_convolution(weight, dilation) for dilation, weight in live.items())
        cast(nn.Conv2d, self.convs[0]).bias = nn.Parameter(torch.stack(biases).sum(dim=0), requires_grad=False)
        self.attention = dfe.attention

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, side, side) to the same shape."""
        total = self.convs[0](x)
        for conv in self.convs[1:]:
            total = total + conv(x)
        out: Tensor = self.attention(F.relu(total))
        return out


def live_branches(branches: dict[int, Tensor], side: int) -> dict[int, Tensor]:
    """Weights (C_out, C_in, 3, 3) by dilation, to the fewest with the same sum on a `side` x `side` map.

    Proof: an outer tap of dilation d reads at distance d from the output pixel, so with d >= side it reads zero padding
    everywhere, and the branch is its centre tap: a 1x1 convolution. A 1x1 convolution adds to the centre tap of any
    other branch, because W x + V x = (W + V) x. Branches that keep outer taps need them for some pixel, and runtimes
    already skip rows of taps in the padding (measured: cropping columns as well by splitting the kernel was no faster
    in OpenVINO at 14, 28, 56 and 112 px), so they stay whole.
    """
    live = {dilation: weight for dilation, weight in branches.items() if dilation < side}
    centre = sum(weight[:, :, 1:2, 1:2] for dilation, weight in branches.items() if dilation >= side)
    if isinstance(centre, int):  # every branch reaches the map
        return live
    if not live:
        return {1: centre}
    first = next(iter(live))
    return live | {first: live[first] + F.pad(centre, (1, 1, 1, 1))}


def _convolution(weight: Tensor, dilation: int) -> nn.Conv2d:
    c_out, c_in, kernel, _ = weight.shape
    conv = nn.Conv2d(c_in, c_out, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    return conv
