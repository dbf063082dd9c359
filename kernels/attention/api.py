"""Check the arguments of `window_attention`, then run the reference or the Triton kernel."""

import torch
from torch import Tensor

from kernels.attention.op import attention_op
from kernels.attention.prepare import check_scale, padded_size, prepare_bias, table_rows
from kernels.attention.reference import window_attention_reference
from kernels.dispatch import Impl, choose, device_refusal, require, require_tensors, require_whole

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_KERNEL_HEAD_DIMS = (16, 32, 64)
_KERNEL_WINDOWS = range(4, 33)
_INT32_LIMIT = 2**31  # the kernels compute offsets in int32, which is cheaper than int64 on a GPU


def window_attention(
    qkv: Tensor,
    bias_table: Tensor,
    *,
    num_heads: int,
    window_size: int,
    shift_size: int = 0,
    scale: float | None = None,
    impl: Impl = "auto",
    bias_rows: Tensor | None = None,
) -> Tensor:
    """Compute shifted-window multi-head attention with relative position bias (paper, Swin block, arXiv 2103.14030).

    Args:
        qkv: `(B, H, W, 3C)`, float16, bfloat16 or float32 (also float64 with the reference). The last axis is ordered
            (q | k | v, head, head dim), H and W are multiples of `window_size`. The kernel copies a tensor that is not
            contiguous.
        bias_table: `((2w-1)^2, heads)`, qkv's dtype or float32. Row `(dy + w - 1) * (2w - 1) + (dx + w - 1)` is the
            bias for dy, dx = query minus key.
        num_heads: divides C.
        window_size: w, side of a window in tokens.
        shift_size: cyclic shift in tokens, `0 <= shift < window_size`. The regions that it brings together are masked
            by -100.
        scale: positive factor of q k^T. None means `head_dim ** -0.5`.
        impl: "reference", "triton" or "auto". An explicit choice never falls back. The kernel takes head dims 16, 32
            and 64, windows from 4 to 32 and fewer than 2^31 values.
        bias_rows: result of `prepare_bias` for the same table, window, shift and scale, so that weights that no longer
            change are prepared once. Without it, each call of the kernel prepares them. The reference reads the table.

    Returns:
        `(B, H, W, C)` in qkv's dtype, differentiable in qkv and in bias_table (in bias_rows where those are given).

    Raises:
        KernelInputError: an argument breaks one of the rules above.
    """
    require_tensors(qkv=qkv, bias_table=bias_table)
    require_whole(num_heads=num_heads, window_size=window_size, shift_size=shift_size)
    _check_qkv(qkv, num_heads, window_size, shift_size)
    _check_table(qkv, bias_table, num_heads, window_size)
    scale = _positive_scale(qkv, num_heads, scale)
    if bias_rows is not None:
        require_tensors(bias_rows=bias_rows)
        _check_rows(qkv, bias_rows, num_heads, window_size, shift_size)
    if choose(impl, "window_attention", qkv.device, kernel_refusal(qkv, num_heads, window_size)):
        # Prepared outside the operator, so that autograd carries the gradient of the rows on to the table.
        if bias_rows is None:
            bias_rows = prepare_bias(bias_table, window_size=window_size, shift_size=shift_size, scale=scale)
        out: Tensor = attention_op(qkv, bias_rows, window_size, shift_size, scale)
        return out
    return window_attention_reference(qkv, bias_table, num_heads, window_size, shift_size, scale)


def kernel_refusal(qkv: Tensor, num_heads: int, window_size: int) -> str | None:
    """Return why the Triton kernel cannot take this problem on this device, or None."""
    head_dim = qkv.shape[3] // (3 * num_heads)
    if (refusal := device_refusal(qkv)) is not None:
        return refusal
    if qkv.dtype == torch.float64:
        return f"dtype must be float16, bfloat16 or float32, got {qkv.dtype}"
    if head_dim not in _KERNEL_HEAD_DIMS:
        return f"head dim must be one of {_KERNEL_HEAD_DIMS}, got {head_dim}"
    if window_size not in _KERNEL_WINDOWS:
        return f"window_size must be 4 to 32, got {window_size}"
    if qkv.numel() >= _INT32_LIMIT:
        return f"qkv must hold fewer than {_INT32_LIMIT} values (its offsets are int32), got {qkv.numel()}"
    return None


def _positive_scale(qkv: Tensor, num_heads: int, scale: float | None) -> float:
    """Return the scale, by default `head_dim ** -0.5`."""
    if scale is None:
        return float((qkv.shape[3] // (3 * num_heads)) ** -0.5)
    check_scale(scale)
    return scale


def _check_qkv(qkv: Tensor, num_heads: int, window_size: int, shift_size: int) -> None:
    # The order matters: each check divides by or indexes what the ones above it have established.
    require(qkv.ndim == 4, f"qkv must have 4 axes (B, H, W, 3C), got shape {tuple(qkv.shape)}")
    batch, height, width, channels = qkv.shape
    require(batch > 0, f"qkv must hold at least 1 image, got shape {tuple(qkv.shape)}")
    require(qkv.dtype in _DTYPES, f"qkv must be float16, bfloat16, float32 or float64, got {qkv.dtype}")
    require(num_heads > 0 and window_size > 0, f"heads and window must be positive, got {num_heads=}, {window_size=}")
    require(
        channels > 0 and channels % (3 * num_heads) == 0,
        f"3 * num_heads must evenly divide the last axis of qkv, got {num_heads=}, 3C={channels}",
    )
    require(
        height > 0 and width > 0 and height % window_size == 0 and width % window_size == 0,
        f"window_size must evenly divide H and W, got {window_size=}, H={height}, W={width}",
    )
    require(
        0 <= shift_size < window_size,
        f"shift_size must be at least 0 and below window_size, got {shift_size=}, {window_size=}",
    )


def _check_table(qkv: Tensor, bias_table: Tensor, num_heads: int, window_size: int) -> None:
    expected = (table_rows(window_size), num_heads)
    require(
        tuple(bias_table.shape) == expected,
        f"bias_table must have shape ((2w-1)^2, heads) = {expected}, got {tuple(bias_table.shape)}",
    )
    require(
        bias_table.dtype in (qkv.dtype, torch.float32),
        f"bias_table must have qkv's dtype or float32, got {bias_table.dtype} beside {qkv.dtype}",
    )
    require(
        bias_table.device == qkv.device,
        f"bias_table must be on qkv's device, got {bias_table.device} beside {qkv.device}",
    )


def _check_rows(qkv: Tensor, bias_rows: Tensor, num_heads: int, window_size: int, shift_size: int) -> None:
    # The shape reveals rows of another window or without a mask. Another scale or table cannot be noticed here.
    expected = (num_heads, 3 if shift_size else 1, (2 * window_size - 1) * window_size, padded_size(window_size))
    require(
        tuple(bias_rows.shape) == expected and bias_rows.dtype == torch.float32 and bias_rows.is_contiguous(),
        f"bias_rows must be contiguous float32 {expected} for {window_size=}, {shift_size=}, "
        f"got {bias_rows.dtype} {tuple(bias_rows.shape)}",
    )
    require(
        bias_rows.device == qkv.device,
        f"bias_rows must be on qkv's device, got {bias_rows.device} beside {qkv.device}",
    )
