"""Score under many weightings of the images at once: the bootstrap of the evaluation and of the engines' gate.

weights: (R, N), how often each of N images counts. The first row counts each once, so the first value of every score is
that of the images as they are.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
Array = NDArray[np.float64]
Groups = dict[str, dict[str, Array]]  # (R,) values by score and by class or label


def resample(groups: Sequence[int], seed: int = 0) -> Array:
    """Return weights of the images as they are, then of `RESAMPLES` draws of as many groups as there are.

    groups: by image, 0 to G - 1. Slices of one volume are alike, so a volume is drawn whole.
    """
    count = max(groups) + 1
    draws = np.random.default_rng(seed).multinomial(count, [1 / count] * count, RESAMPLES)
    weights: Array = np.concatenate([np.ones((1, count)), draws])[:, list(groups)]
    return weights


def as_they_are(count: int) -> Array:
    """Return the weights (1, count) that count each image once, for scores without an interval."""
    return np.ones((1, count))


def weighted_mean(values: Array, weights: Array) -> Array:
    """Return (R,) means of (N,) values; NaN values are left out, a row without any is NaN."""
    valid = ~np.isnan(values)
    return weighted_ratio(np.where(valid, values, 0.0), valid, weights)


def weighted_ratio(top: Array, bottom: Array | NDArray[np.bool_], weights: Array) -> Array:
    """Return (R,) sums of `top` over sums of `bottom`, both (N,); NaN where the latter is 0."""
    total = weights @ bottom
    ratio: Array = np.divide(weights @ top, total, out=np.full(len(weights), np.nan), where=total > 0)
    return ratio


def weighted_auc(probs: Array, positive: NDArray[np.bool_], weights: Array) -> Array:
    """Return (R,) shares of pairs, one image with the label and one without, that are ranked right; ties count half."""
    difference = probs[positive][:, None] - probs[~positive]
    right = (difference > 0) + 0.5 * (difference == 0)
    pairs = weights[:, positive].sum(axis=1) * weights[:, ~positive].sum(axis=1)
    ranked = np.einsum("rp,pn,rn->r", weights[:, positive], right, weights[:, ~positive], optimize=True)
    area: Array = np.divide(ranked, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return area


def with_means(groups: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Return each group as GROUP (its mean) and GROUP/NAME, without what the images as they are do not define."""
    flat = {f"{group}/{name}": values for group, columns in groups.items() for name, values in columns.items()}
    means = {group: _mean(list(columns.values())) for group, columns in groups.items() if columns}
    return {name: values for name, values in (means | flat).items() if np.isfinite(values[0])}


def _mean(columns: list[Array]) -> Array:
    """Take the mean over the columns that have a value, row by row."""
    valid = ~np.isnan(columns)
    total, count = np.where(valid, columns, 0).sum(axis=0), valid.sum(axis=0)
    mean: Array = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return mean


def interval(values: Array) -> tuple[float, float, float]:
    """Return the value of the images as they are and the bounds of its 95 % interval over the draws with a value."""
    drawn = values[np.isfinite(values)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(values[0]), float(low), float(high)
