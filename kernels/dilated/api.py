"""`dilated_fusion`: checks, then the reference or the Triton kernel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.choice import Impl, choose
from kernels.dilated.reference import dilated_fusion_reference
from kernels.errors import require

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def dilated_fusion(x: Tensor, weight: Tensor, bias: Tensor, *, dilations: Sequence[int], impl: Impl = "auto") -> Tensor:
    """`relu(bias + sum over b of conv3x3(x, weight[b], dilation = padding = dilations[b]))` (paper, DFE module).

    Args:
        x: `(B, H, W, C_in)`, float16, bfloat16, float32 (float64 with the reference).
        weight: `(branches, C_out, C_in, 3, 3)`, x's dtype.
        bias: `(C_out,)`, x's dtype or float32.
        dilations: one positive dilation a branch.
        impl: "reference", "triton" or "auto"; an explicit choice never falls back.

    Returns:
        `(B, H, W, C_out)`, contiguous, in x's dtype. Inference only: the Triton kernel has no gradient.

    Raises:
        KernelInputError: an argument breaks one of the rules above.
    """
    _check(x, weight, bias, dilations)
    choose(impl, "dilated_fusion", "it is not built yet")
    return dilated_fusion_reference(x, weight, bias, dilations)


def _check(x: Tensor, weight: Tensor, bias: Tensor, dilations: Sequence[int]) -> None:
    require(x.ndim == 4, f"x must have 4 axes (B, H, W, C_in), got shape {tuple(x.shape)}")
    require(all(size > 0 for size in x.shape), f"every axis of x must be at least 1, got shape {tuple(x.shape)}")
    require(x.dtype in _DTYPES, f"x must be float16, bfloat16, float32 or float64, got {x.dtype}")
    expected = f"(branches, C_out, {x.shape[3]}, 3, 3)"
    require(
        weight.ndim == 5 and tuple(weight.shape[2:]) == (x.shape[3], 3, 3) and weight.shape[0] * weight.shape[1] > 0,
        f"weight must have shape {expected} for x of {x.shape[3]} channels, got {tuple(weight.shape)}",
    )
    require(
        len(dilations) == weight.shape[0] and all(dilation > 0 for dilation in dilations),
        f"dilations must hold one positive value a branch, got {tuple(dilations)} for {weight.shape[0]} branches",
    )
    channels = (weight.shape[1],)
    require(tuple(bias.shape) == channels, f"bias must have shape (C_out,) = {channels}, got {tuple(bias.shape)}")
    for name, tensor, dtypes in (("weight", weight, (x.dtype,)), ("bias", bias, (x.dtype, torch.float32))):
        require(tensor.dtype in dtypes, f"{name} must have one of the dtypes {dtypes}, got {tensor.dtype}")
        require(tensor.device == x.device, f"{name} must be on x's device, got {tensor.device} beside {x.device}")
