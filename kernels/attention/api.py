"""`window_attention`: checks, then the reference or the Triton kernel."""

import torch
from torch import Tensor

from kernels.attention.reference import window_attention_reference
from kernels.choice import Impl, choose
from kernels.errors import require

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def window_attention(
    qkv: Tensor,
    bias_table: Tensor,
    *,
    num_heads: int,
    window_size: int,
    shift_size: int = 0,
    scale: float | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Shifted-window multi-head attention with relative position bias (paper, Swin block; arXiv 2103.14030).

    Args:
        qkv: `(B, H, W, 3C)`, last axis ordered (q | k | v, head, head dim); H and W multiples of `window_size`.
            float16, bfloat16, float32 (float64 with the reference).
        bias_table: `((2w-1)^2, heads)`, same dtype or float32, row `(dy + w - 1) * (2w - 1) + (dx + w - 1)` for
            dy, dx = query minus key.
        num_heads: divides C.
        window_size: side of a window in tokens.
        shift_size: cyclic shift in tokens, `0 <= shift < window_size`; regions that it joins are masked by -100.
        scale: factor of q k^T; None means `head_dim ** -0.5`.
        impl: "reference", "triton" or "auto"; an explicit choice never falls back.

    Returns:
        `(B, H, W, C)` in qkv's dtype, differentiable in qkv and bias_table.

    Raises:
        KernelInputError: an argument breaks one of the rules above.
    """
    _check(qkv, bias_table, num_heads, window_size, shift_size)
    scale = (qkv.shape[3] // (3 * num_heads)) ** -0.5 if scale is None else scale
    choose(impl, "window_attention", "it is not built yet")
    return window_attention_reference(qkv, bias_table, num_heads, window_size, shift_size, scale)


def _check(qkv: Tensor, bias_table: Tensor, num_heads: int, window_size: int, shift_size: int) -> None:
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
    _check_table(qkv, bias_table, num_heads, window_size)


def _check_table(qkv: Tensor, bias_table: Tensor, num_heads: int, window_size: int) -> None:
    expected = ((2 * window_size - 1) ** 2, num_heads)
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
