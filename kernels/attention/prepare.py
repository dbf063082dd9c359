"""Arrange the learned bias table in the form that the kernels load."""

from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.attention.reference import MASKED
from kernels.dispatch import require, require_tensors, require_whole


def padded_size(window_size: int) -> int:
    """Return the slots of a padded window row: the next power of two, at least 4."""
    return max(4, 1 << (window_size - 1).bit_length())


def table_rows(window_size: int) -> int:
    """Return the number of pairs of distances within a window, each a row of the bias table."""
    return (2 * window_size - 1) ** 2


def check_scale(scale: float) -> None:
    """Raise KernelInputError unless q k^T can be multiplied by `scale`."""
    number = isinstance(scale, (Real, torch.SymFloat, torch.SymInt)) and not isinstance(scale, bool)
    require(number, f"scale must be a number, got {scale!r}")
    require(0 < scale < float("inf"), f"scale must be positive and finite, got {scale}")


def prepare_bias(bias_table: Tensor, *, window_size: int, shift_size: int, scale: float) -> Tensor:
    """Make the bias rows of `window_attention` from its bias table.

    Row `(yq - yk + w - 1) * w + xq` holds the bias of query column xq to the key columns 0 .. w-1 at that row distance.
    Since `yq * w + xq` is the query's token number t, its bias to key row y stands in row `t + (w - 1 - y) * w`: a tile
    of consecutive queries reads one contiguous piece. A head needs w^3 values where the full matrix has w^4.

    Differentiable, so training calls it at each step.

    Args:
        bias_table: `((2w-1)^2, heads)` as for `window_attention`.
        window_size: w, side of a window in tokens.
        shift_size: cyclic shift in tokens. Above 0, the rows come in three kinds instead of one.
        scale: positive factor of q k^T. The rows are in units of `1 / scale`, as the kernels start from the bias and
            add q k^T to it.

    Returns:
        float32 `(heads, kinds, (2w-1) * w, padded w)`, with -inf from column w on. Kind 0 is plain, kind 1 masks
        between the columns that the shift brings together, kind 2 masks everything.

    Raises:
        KernelInputError: an argument breaks one of the rules of `window_attention`.
    """
    _check(bias_table, window_size, shift_size)
    check_scale(scale)
    span, padding = 2 * window_size - 1, padded_size(window_size) - window_size
    position = torch.arange(window_size, device=bias_table.device)
    column_distance = (position[:, None] - position + window_size - 1).flatten()  # [xq, xk], from 0
    rows = bias_table.float().view(span, span, -1).index_select(1, column_distance) / scale
    rows = rows.view(span * window_size, window_size, -1).permute(2, 0, 1)
    if shift_size:
        # Only windows of the last column wrap: there, the last `shift` columns come from the other side of the map.
        wrapped = position >= window_size - shift_size
        column_mask = (wrapped[:, None] != wrapped).float().repeat(span, 1) * (MASKED / scale)
        rows = torch.stack((rows, rows + column_mask, rows + MASKED / scale), dim=1)
    else:
        rows = rows[:, None]
    # -inf gives padded keys the weight 0, so the kernels' loop needs no mask for them.
    return F.pad(rows, (0, padding), value=float("-inf")).contiguous()


def _check(bias_table: Tensor, window_size: int, shift_size: int) -> None:
    require_tensors(bias_table=bias_table)
    require_whole(window_size=window_size, shift_size=shift_size)
    require(
        0 <= shift_size < window_size,
        f"shift_size must be at least 0 and below window_size, got {shift_size=}, {window_size=}",
    )
    require(
        bias_table.ndim == 2 and bias_table.shape[0] == table_rows(window_size),
        f"bias_table must have shape ((2w-1)^2, heads) = ({table_rows(window_size)}, heads), "
        f"got {tuple(bias_table.shape)}",
    )
