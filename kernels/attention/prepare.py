"""The learned bias table in the form that the kernels load, prepared once per weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention.reference import MASKED


def padded_size(window_size: int) -> int:
    """Slots of a padded window row: the power of two from 4 up."""
    return max(4, 1 << (window_size - 1).bit_length())


def prepare_bias(bias_table: Tensor, *, window_size: int, shift_size: int, scale: float) -> Tensor:
    """Bias rows for `window_attention`; differentiable, so training calls it at each step.

    Args:
        bias_table: `((2w-1)^2, heads)` as for `window_attention`.
        window_size: w.
        shift_size: above 0 the masked kinds are added.
        scale: positive; the rows are in units of `1 / scale`, where they are the accumulator's first value.

    Returns:
        float32 `(heads, kinds, (2w-1) * w, padded w)`. Row `(yq - yk + w - 1) * w + xq` holds the bias of query
        column xq to key columns 0 .. w-1 at that row distance, then -inf: a query token t meets key row y in row
        `t + (w - 1 - y) * w`, so a tile is one contiguous piece. w^3 values a head stand for w^4.
        Kind 0 is plain, 1 masks between columns that the shift made neighbours, 2 masks everything.
    """
    span, padding = 2 * window_size - 1, padded_size(window_size) - window_size
    position = torch.arange(window_size, device=bias_table.device)
    offset = (position[:, None] - position + window_size - 1).flatten()  # [xq, xk]
    rows = bias_table.float().view(span, span, -1).index_select(1, offset) / scale
    rows = rows.view(span * window_size, window_size, -1).permute(2, 0, 1)
    if shift_size:
        beyond = position >= window_size - shift_size
        beside = (beyond[:, None] != beyond).float().repeat(span, 1) * (MASKED / scale)
        rows = torch.stack((rows, rows + beside, rows + MASKED / scale), dim=1)
    else:
        rows = rows[:, None]
    return F.pad(rows, (0, padding), value=float("-inf")).contiguous()
