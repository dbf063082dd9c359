"""Arrange the weights of all branches as the one list of taps that the kernel loads."""

from collections.abc import Sequence

import torch
from torch import Tensor


def distinct(dilations: Sequence[int]) -> tuple[int, ...]:
    """Return the dilations in ascending order, each once."""
    return tuple(sorted(set(dilations)))


def pack_taps(weight: Tensor, dilations: Sequence[int]) -> Tensor:
    """Pack the weight of `dilated_fusion` as taps.

    Branches of one dilation share all their taps, branches of different dilations only the centre. Shared taps are
    summed, so three different dilations give 25 taps instead of 27.

    Args:
        weight: `(branches, C_out, C_in, 3, 3)`.
        dilations: one for each branch.

    Returns:
        `(1 + 8 * distinct dilations, C_in, C_out)` in weight's dtype: the centre tap, then the eight outer taps of each
        dilation, in ascending order of dilations and row by row.
    """
    _, c_out, c_in, _, _ = weight.shape
    # Summed in float32 and rounded once. [branches, taps, C_in, C_out]: input channels are the rows of the product.
    flat = weight.float().permute(0, 3, 4, 2, 1).reshape(-1, 9, c_in, c_out)
    outer = flat[:, [0, 1, 2, 3, 5, 6, 7, 8]]
    centre = flat[:, 4].sum(0, keepdim=True)
    branches = [[branch for branch, own in enumerate(dilations) if own == one] for one in distinct(dilations)]
    taps = torch.cat([centre, *(outer[same].sum(0) for same in branches)])
    return taps.to(weight.dtype).contiguous()
