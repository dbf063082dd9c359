"""The deployed form of the network: batch norms and 1x1 convolutions folded, each DFE one fused convolution sum.

Both folds are exact: batch norm in evaluation is an affine map a * x + b of each channel, and a linear map after a
convolution is again a convolution. Equal to the trained form up to fp32 rounding.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kernels import Impl
from model.inference.kernel_modules import FusedDFE, PreparedAttention
from model.network import MultiTaskResFormer
from model.network.decoder import DFE, DilatedBranch
from model.network.layers import ConvNorm
from model.network.swin import WindowAttention


def for_inference(model: MultiTaskResFormer, impl: Impl = "auto") -> MultiTaskResFormer:
    """A copy of the network in evaluation mode with everything folded that folds; the original is left as it is.

    impl: of the two operations of `kernels`; where that is the Triton kernel, on a GPU with "auto", what it loads is
        prepared once and not at each call. An export of the plain graph asks for "reference".
    """
    folded = deepcopy(model).eval().requires_grad_(False)
    replace_modules(folded, DFE, partial(fuse_dfe, impl=impl))
    replace_modules(folded, WindowAttention, partial(prepare_attention, impl=impl))
    replace_modules(folded, ConvNorm, fold_norm)
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


def fuse_dfe(dfe: nn.Module, impl: Impl) -> FusedDFE:
    """A DFE's three branches as one weight stack; their biases add up."""
    assert isinstance(dfe, DFE)
    branches = [cast(DilatedBranch, branch) for branch in dfe.branches]
    weights, biases = zip(*(fold_branch(branch) for branch in branches), strict=True)
    dilations = tuple(branch.dilation for branch in branches)
    return FusedDFE(torch.stack(weights), torch.stack(biases).sum(dim=0), dilations, dfe.attention, impl)


def prepare_attention(attention: nn.Module, impl: Impl) -> PreparedAttention:
    assert isinstance(attention, WindowAttention)
    return PreparedAttention(attention, impl)


def replace_modules(root: nn.Module, kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> None:
    """Put `make(module)` in the place of every module of that kind under `root`."""
    for name, child in root.named_children():
        if isinstance(child, kind):
            setattr(root, name, make(child))
        else:
            replace_modules(child, kind, make)
