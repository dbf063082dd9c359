"""Check the arguments of `dilated_fusion`, then run the reference or the Triton kernel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.dilated.op import dilated_op
from kernels.dilated.prepare import check_dilations, distinct, pack_taps
from kernels.dilated.reference import dilated_fusion_reference
from kernels.dispatch import Impl, choose, device_refusal, require, require_tensors

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INT32_LIMIT = 2**31  # the kernel computes offsets in int32, which is cheaper than int64 on a GPU


def dilated_fusion(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    dilations: Sequence[int],
    impl: Impl = "auto",
    taps: Tensor | None = None,
) -> Tensor:
    """Compute `relu(bias + sum over b of conv3x3(x, weight[b], dilation=padding=dilations[b]))` (paper, DFE module).

    Args:
        x: `(B, H, W, C_in)`, float16, bfloat16 or float32 (also float64 with the reference). The kernel copies a tensor
            that is not contiguous.
        weight: `(branches, C_out, C_in, 3, 3)`, x's dtype.
        bias: `(C_out,)`, x's dtype or float32.
        dilations: one positive dilation for each branch.
        impl: "reference", "triton" or "auto". An explicit choice never falls back. The kernel takes maps of fewer than
            2^31 values and has no gradient.
        taps: result of `pack_taps` for the same weight and dilations, so that weights that no longer change are packed
            once. Without it, each call of the kernel packs them. The reference reads the weight.

    Returns:
        `(B, H, W, C_out)`, contiguous, in x's dtype. The kernel sums the centre taps of all branches beforehand, so an
        infinite input gives infinity where centre taps of opposite signs give NaN in the reference.

    Raises:
        KernelInputError: an argument breaks one of the rules above.
    """
    require_tensors(x=x, weight=weight, bias=bias)
    _check_x(x)
    _check_weight(x, weight, dilations)
    _check_dtype_and_device(x, weight, "weight", (x.dtype,))
    _check_bias(x, bias, weight.shape[1])
    if taps is not None:
        require_tensors(taps=taps)
        _check_taps(x, taps, weight.shape[1], dilations)
    if choose(impl, "dilated_fusion", x.device, kernel_refusal(x, weight, bias, weight.shape[1])):
        out: Tensor = dilated_op(x, pack_taps(weight, dilations) if taps is None else taps, bias, list(dilations))
        return out
    return dilated_fusion_reference(x, weight, bias, dilations)


def kernel_refusal(x: Tensor, weight: Tensor, bias: Tensor, c_out: int) -> str | None:
    """Return why the Triton kernel cannot take this problem on this device, or None."""
    if (refusal := device_refusal(x)) is not None:
        return refusal
    if x.dtype == torch.float64:
        return f"dtype must be float16, bfloat16 or float32, got {x.dtype}"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, weight, bias)):
        return "it has no gradient: call it under torch.no_grad() or with tensors that need none"
    values = x.shape[0] * x.shape[1] * x.shape[2] * max(x.shape[3], c_out)
    if values >= _INT32_LIMIT:
        return f"input and output must hold fewer than {_INT32_LIMIT} values (offsets are int32), got {values}"
    return None


def _check_x(x: Tensor) -> None:
    require(x.ndim == 4, f"x must have 4 axes (B, H, W, C_in), got shape {tuple(x.shape)}")
    require(all(size > 0 for size in x.shape), f"every axis of x must be at least 1, got shape {tuple(x.shape)}")
    require(x.dtype in _DTYPES, f"x must be float16, bfloat16, float32 or float64, got {x.dtype}")


def _check_weight(x: Tensor, weight: Tensor, dilations: Sequence[int]) -> None:
    require(
        weight.ndim == 5 and tuple(weight.shape[2:]) == (x.shape[3], 3, 3) and weight.shape[0] * weight.shape[1] > 0,
        f"weight must have shape (branches, C_out, {x.shape[3]}, 3, 3) for x of {x.shape[3]} channels, "
        f"got {tuple(weight.shape)}",
    )
    check_dilations(weight, dilations)


def _check_bias(x: Tensor, bias: Tensor, c_out: int) -> None:
    require(tuple(bias.shape) == (c_out,), f"bias must have shape (C_out,) = ({c_out},), got {tuple(bias.shape)}")
    _check_dtype_and_device(x, bias, "bias", (x.dtype, torch.float32))


def _check_taps(x: Tensor, taps: Tensor, c_out: int, dilations: Sequence[int]) -> None:
    expected = (1 + 8 * len(distinct(dilations)), x.shape[3], c_out)
    require(
        tuple(taps.shape) == expected and taps.is_contiguous(),
        f"taps must be contiguous of shape {expected} for dilations {tuple(dilations)}, got {tuple(taps.shape)}",
    )
    _check_dtype_and_device(x, taps, "taps", (x.dtype,))


def _check_dtype_and_device(x: Tensor, tensor: Tensor, name: str, dtypes: tuple[torch.dtype, ...]) -> None:
    require(tensor.dtype in dtypes, f"{name} must have one of the dtypes {dtypes}, got {tensor.dtype}")
    require(tensor.device == x.device, f"{name} must be on x's device, got {tensor.device} beside {x.device}")
