"""The deployed form of the network: batch norms and 1x1 convolutions folded, each DFE one fused convolution sum.

Both folds are exact: batch norm in evaluation is an affine map a * x + b of each channel, and a linear map after a
convolution is again a convolution. Equal to the trained form up to fp32 rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kernels import dilated_fusion
from model.dfe import DFE, DilatedBranch, SpatialAttention
from model.layers import ConvNorm, to_channels_first, to_channels_last
from model.network import MultiTaskResFormer


class FusedDFE(nn.Module):
    """DFE as one `kernels.dilated_fusion` call and the spatial attention."""

    def __init__(self, weight: Tensor, bias: Tensor, dilations: tuple[int, ...], attention: SpatialAttention) -> None:
        """weight (branches, C, C, 3, 3), bias (C,)."""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.dilations = dilations
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        fused = dilated_fusion(to_channels_last(x), self.weight, self.bias, dilations=self.dilations)
        out: Tensor = self.attention(to_channels_first(fused))
        return out


def for_inference(model: MultiTaskResFormer) -> MultiTaskResFormer:
    """A copy of the network in evaluation mode with everything folded that folds; the original is left as it is."""
    folded = deepcopy(model).eval().requires_grad_(False)
    _replace(folded, DFE, fuse_dfe)
    _replace(folded, ConvNorm, fold_norm)
    return folded


def fold_norm(pair: nn.Module) -> nn.Conv2d:
    """ConvNorm as one convolution: W' = a W, b' = b, with a = gamma / sqrt(var + eps) and b = beta - a mean."""
    assert isinstance(pair, ConvNorm)
    return fuse_conv_bn_eval(pair.conv, pair.norm)


def fold_branch(branch: DilatedBranch) -> tuple[Tensor, Tensor]:
    """A DFE branch as one dilated convolution's weight (C, C, 3, 3) and bias (C,).

    The 1x1 convolution A x + c after W * x + b gives (A W) * x + (A b + c); zero padding stays exact because it is
    applied before W and b is added after.
    """
    dilated, pointwise = (fold_norm(cast(ConvNorm, pair)) for pair in branch)
    assert dilated.bias is not None
    assert pointwise.bias is not None
    matrix = pointwise.weight[:, :, 0, 0]
    return torch.einsum("om,mihw->oihw", matrix, dilated.weight), matrix @ dilated.bias + pointwise.bias


def fuse_dfe(dfe: nn.Module) -> FusedDFE:
    """A DFE's three branches as one weight stack; their biases add up."""
    assert isinstance(dfe, DFE)
    branches = [cast(DilatedBranch, branch) for branch in dfe.branches]
    weights, biases = zip(*(fold_branch(branch) for branch in branches), strict=True)
    dilations = tuple(branch.dilation for branch in branches)
    return FusedDFE(torch.stack(weights), torch.stack(biases).sum(dim=0), dilations, dfe.attention)


def _replace(root: nn.Module, kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> None:
    for name, child in root.named_children():
        if isinstance(child, kind):
            setattr(root, name, make(child))
        else:
            _replace(child, kind, make)
