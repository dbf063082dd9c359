"""Score masks by how much of the image a class covers, because small lesions and fluids are the hard ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from model.bootstrap import Array, interval, weighted_mean
from model.evaluation import ScoredCase

EDGES = (0.0, 0.005, 0.02, 0.06, 0.2, 1.0)  # shares of the image


@dataclass(frozen=True, kw_only=True)
class SizeScore:
    """Hold the scores of one range of sizes.

    above: share of the image that is covered at the least, and not itself in the range.
    up_to: share that is covered at the most.
    count: how often an image shows a class of that size.
    dice: mean Dice, with the bounds of its 95 % interval.
    missed: how often nothing of it was found.
    """

    above: float
    up_to: float
    count: int
    dice: tuple[float, float, float]
    missed: int


def scores_by_size(cases: Sequence[ScoredCase], weights: Array) -> list[SizeScore]:
    """Score each range of sizes that the images show, over all classes.

    Args:
        cases: the images.
        weights: of the images (R, N), as `bootstrap.resample` gives them.
    """
    dice, covered = (np.array([getattr(case.masks, name) for case in cases]) for name in ("dice", "target"))
    scores = []
    for low, high in pairwise(EDGES):
        # [N, classes]
        inside = (covered > low) & (covered <= high)
        if inside.any():
            # Several classes of one image are drawn together.
            values = np.where(inside, dice, np.nan).T.reshape(-1)
            drawn = weighted_mean(values, np.tile(weights, dice.shape[1]))
            scores.append(
                SizeScore(
                    above=low,
                    up_to=high,
                    count=int(inside.sum()),
                    dice=interval(drawn),
                    missed=int((dice[inside] == 0).sum()),
                )
            )
    return scores
