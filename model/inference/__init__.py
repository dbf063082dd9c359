"""Fold batch norms and 1x1 convolutions, and each DFE into one fused sum of convolutions.

Both folds are exact: batch norm in evaluation is an affine map a * x + b of each channel, and a linear map after a
convolution is again a convolution. The folded network equals the trained one up to fp32 rounding.
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
    """Return a folded copy of the network in evaluation mode, and leave the original as it is.

    Args:
        model: the trained network.
        impl: implementation of the two operations of `kernels`. Where that is the Triton kernel (on a GPU with "auto"),
            what it loads is prepared once and not at each call.
    """
    folded = deepcopy(model).eval().requires_grad_(False)
    # The DFE first: it folds its own pairs of convolution and norm, which must still be there.
    replace_modules(folded, DFE, partial(fuse_dfe, impl=impl))
    replace_modules(folded, WindowAttention, partial(prepare_attention, impl=impl))
    replace_modules(folded, ConvNorm, fold_norm)
    return folded


def with_attention(model: MultiTaskResFormer, impl: Impl) -> MultiTaskResFormer:
    """Return a copy of the network in its trained form whose attention runs in one implementation."""
    copy = deepcopy(model)
    for module in copy.modules():
        if isinstance(module, WindowAttention):
            module.impl = impl
    return copy


def replace_modules(root: nn.Module, kind: type[nn.Module], make: Callable[[nn.Module], nn.Module]) -> None:
    """Replace every module of that kind under `root` by `make(module)`."""
    for name, child in root.named_children():
        if isinstance(child, kind):
            setattr(root, name, make(child))
        else:
            replace_modules(child, kind, make)


def fold_norm(pair: nn.Module) -> nn.Conv2d:
    """Fold a ConvNorm into one convolution: W' = a W, b' = b, with a = gamma / sqrt(var + eps), b = beta - a mean."""
    assert isinstance(pair, ConvNorm)
    return fuse_conv_bn_eval(pair.conv, pair.norm)


def fold_branch(branch: DilatedBranch) -> tuple[Tensor, Tensor]:
    """Fold a DFE branch into the weight (C, C, 3, 3) and bias (C,) of one dilated convolution."""
    dilated, pointwise = (fold_norm(cast(ConvNorm, pair)) for pair in branch)
    assert dilated.bias is not None
    assert pointwise.bias is not None
    # The 1x1 convolution A x + c after W * x + b gives (A W) * x + (A b + c). Zero padding stays exact, because it is
    # applied before W and b is added after it.
    matrix = pointwise.weight[:, :, 0, 0]
    return torch.einsum("om,mihw->oihw", matrix, dilated.weight), matrix @ dilated.bias + pointwise.bias


def fuse_dfe(dfe: nn.Module, impl: Impl) -> FusedDFE:
    """Fuse a DFE's branches into one stack of weights and one bias."""
    assert isinstance(dfe, DFE)
    branches = [cast(DilatedBranch, branch) for branch in dfe.branches]
    weights, biases = zip(*(fold_branch(branch) for branch in branches), strict=True)
    dilations = tuple(branch.dilation for branch in branches)
    # The branches are summed before the ReLU, so their biases add up.
    return FusedDFE(torch.stack(weights), torch.stack(biases).sum(dim=0), dilations, dfe.attention, impl)


def prepare_attention(attention: nn.Module, impl: Impl) -> PreparedAttention:
    """Wrap a trained attention so that its bias is prepared for the kernel."""
    assert isinstance(attention, WindowAttention)
    return PreparedAttention(attention, impl)
