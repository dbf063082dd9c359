"""Arrange the weights of all branches as the one list of taps that the kernel loads."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.dispatch import require, require_tensors, require_whole


def distinct(dilations: Sequence[int]) -> tuple[int, ...]:
    """Return the dilations in ascending order, each once."""
    return tuple(sorted(set(dilations)))


def check_dilations(weight: Tensor, dilations: Sequence[int]) -> None:
    """Raise KernelInputError unless each branch of the weight has one dilation."""
    require(isinstance(dilations, Sequence), f"dilations must be a sequence, got {dilations!r}")
    require_whole(**{f"dilations[{place}]": dilation for place, dilation in enumerate(dilations)})
    require(
        len(dilations) == weight.shape[0] and all(dilation > 0 for dilation in dilations),
        f"dilations must hold one positive value a branch, got {tuple(dilations)} for {weight.shape[0]} branches",
    )


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

    Raises:
        KernelInputError: an argument breaks one of the rules of `dilated_fusion`.
    """
    require_tensors(weight=weight)
    require(
        weight.ndim == 5 and tuple(weight.shape[3:]) == (3, 3),
        f"weight must have shape (branches, C_out, C_in, 3, 3), got {tuple(weight.shape)}",
    )
    check_dilations(weight, dilations)
    _, c_out, c_in, _, _ = weight.shape
    # Summed in float32 and rounded once. [branches, taps, C_in, C_out]: input channels are the rows of the product.
    flat = weight.float().permute(0, 3, 4, 2, 1).reshape(-1, 9, c_in, c_out)
    outer = flat[:, [0, 1, 2, 3, 5, 6, 7, 8]]
    centre = flat[:, 4].sum(0, keepdim=True)
    branches = [[branch for branch, own in enumerate(dilations) if own == one] for one in distinct(dilations)]
    taps = torch.cat([centre, *(outer[same].sum(0) for same in branches)])
    return taps.to(weight.dtype).contiguous()
