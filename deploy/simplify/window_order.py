"""Which windows a map has, in which order an engine takes them, and which of them the shift wraps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MASKED = -100.0  # Swin's own value, as in `kernels`


@dataclass(frozen=True)
class WindowGroup:
    """Windows that share a mask.

    windows: token indices of each, row by row of the map, (count, w^2).
    regions: (w^2,) the part of the map that each place of a window lies in; None where it is one for all.
    """

    windows: Tensor
    regions: Tensor | None


def region_mask(regions: Tensor, dtype: torch.dtype) -> Tensor:
    """(w^2,) to (w^2, w^2): -100 between tokens that only the shift brought together, else 0."""
    return (regions[:, None] != regions).to(dtype) * MASKED


def window_groups(side: int, window: int, shift: int) -> list[WindowGroup]:
    """Every window of a `side` x `side` map shifted by `shift`, in at most four kinds: inner, right, bottom, corner.

    Proof of the kinds: the cyclic shift brings tokens together from beyond the map's edge only in the last column and
    the last row of windows, and there at the same places of each window.
    """
    position = torch.arange(side)
    token = (((position + shift) % side)[:, None] * side) + (position + shift) % side  # of the shifted map
    wrapped = (position + shift >= side).long()
    region = 2 * wrapped[:, None] + wrapped
    tokens, regions = (_partition(values, window) for values in (token, region))  # [rows, columns, w^2]
    groups: list[WindowGroup] = []
    for rows in (slice(0, -1), slice(-1, None)) if shift else (slice(None),):
        for columns in (slice(0, -1), slice(-1, None)) if shift else (slice(None),):
            places = regions[rows, columns].flatten(0, 1)[0]
            wraps = bool((places != places[0]).any())
            groups.append(WindowGroup(tokens[rows, columns].flatten(0, 1), places if wraps else None))
    return groups


def token_order(groups: list[WindowGroup]) -> Tensor:
    """(side^2,) token indices of the map in the order of the groups' windows."""
    return torch.cat([group.windows.flatten() for group in groups])


def _partition(values: Tensor, window: int) -> Tensor:
    """(side, side) to (rows, columns, w^2)."""
    count = values.shape[0] // window
    return values.view(count, window, count, window).transpose(1, 2).flatten(2)
