"""The weights of all branches as one list of taps, prepared once per weights."""

from collections.abc import Sequence

import torch
from torch import Tensor


def distinct(dilations: Sequence[int]) -> tuple[int, ...]:
    """Ascending, each once: branches of one dilation share all their taps, others only the centre."""
    return tuple(sorted(set(dilations)))


def pack_taps(weight: Tensor, dilations: Sequence[int]) -> Tensor:
    """The taps of `dilated_fusion`.

    Args:
        weight: `(branches, C_out, C_in, 3, 3)`.
        dilations: one a branch.

    Returns:
        `(1 + 8 * distinct dilations, C_in, C_out)` in weight's dtype, sums taken in float32: the centre of all
        branches, then the eight outer taps of each dilation, ascending, row by row. Three branches give 25 taps.
    """
    _, c_out, c_in, _, _ = weight.shape
    flat = weight.float().permute(0, 3, 4, 2, 1).reshape(-1, 9, c_in, c_out)
    outer = flat[:, [0, 1, 2, 3, 5, 6, 7, 8]]
    centre = flat[:, 4].sum(0, keepdim=True)
    branches = [[branch for branch, own in enumerate(dilations) if own == one] for one in distinct(dilations)]
    taps = torch.cat([centre, *(outer[same].sum(0) for same in branches)])
    return taps.to(weight.dtype).contiguous()
