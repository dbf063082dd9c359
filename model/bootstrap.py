"""Compute scores under many weightings of the images at once: the bootstrap of the evaluation and of the task gate.

Everywhere here `weights` is (R, N): how often each of N images counts. The first row counts each image once, so the
first value of every score is that of the images themselves. The other rows are the resampled images.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
BINS = 15  # of equal width, for the calibration error
Array = NDArray[np.float64]
Groups = dict[str, dict[str, Array]]  # (R,) values by score and by class or label


def resample(groups: Sequence[int], seed: int = 0) -> Array:
    """Return the weights of the images themselves, then those of `RESAMPLES` draws with replacement.

    Args:
        groups: group of each image, 0 to G - 1. A draw takes G whole groups, because slices of one volume are similar.
        seed: of the draws.
    """
    count = max(groups) + 1
    # How often each group comes up in G draws is multinomial. Counts in place of lists of images make every
    # score a matrix product over all resamples at once.
    draws = np.random.default_rng(seed).multinomial(count, [1 / count] * count, RESAMPLES)
    weights: Array = np.concatenate([np.ones((1, count)), draws])[:, list(groups)]
    return weights


def count_once(count: int) -> Array:
    """Return the weights (1, count) that count each image once, for scores without an interval."""
    return np.ones((1, count))


def weighted_mean(values: Array, weights: Array) -> Array:
    """Return the (R,) means of (N,) values, where NaN values are left out and a row of nothing else is NaN."""
    valid = ~np.isnan(values)
    # NaN times a weight of 0 would still be NaN.
    return weighted_ratio(np.where(valid, values, 0.0), valid, weights)


def weighted_ratio(top: Array, bottom: Array | NDArray[np.bool_], weights: Array) -> Array:
    """Return the (R,) sums of `top` over the sums of `bottom`, both (N,), or NaN where the latter is 0."""
    total = weights @ bottom
    ratio: Array = np.divide(weights @ top, total, out=np.full(len(weights), np.nan), where=total > 0)
    return ratio


def weighted_auc(probs: Array, positive: NDArray[np.bool_], weights: Array) -> Array:
    """Return the (R,) areas under the ROC curve of (N,) probabilities, or NaN where all images have one label.

    The area is the share of pairs, one image with the label and one without, that are ranked right. Ties count half.
    """
    difference = probs[positive][:, None] - probs[~positive]
    right = (difference > 0) + 0.5 * (difference == 0)
    pairs = weights[:, positive].sum(axis=1) * weights[:, ~positive].sum(axis=1)
    # A pair counts as often as the product of its images' weights: no resample has to be sorted.
    ranked = np.einsum("rp,pn,rn->r", weights[:, positive], right, weights[:, ~positive], optimize=True)
    area: Array = np.divide(ranked, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return area


def weighted_ece(probs: Array, positive: NDArray[np.bool_], weights: Array) -> Array:
    """Return the (R,) expected calibration errors of (N,) probabilities.

    That is the difference between the mean probability and the share of images with the label, in each of `BINS` bins
    of the probability, averaged over the images.
    """
    differences = (probs - positive)[:, None] * in_bins(probs)
    errors: Array = abs(weights @ differences).sum(axis=1) / weights.sum(axis=1)
    return errors


def in_bins(probs: Array) -> NDArray[np.bool_]:
    """Return (N, BINS), which of `BINS` bins of equal width each of (N,) probabilities belongs to."""
    # A probability of 1 belongs to the last bin.
    numbers = np.minimum((probs * BINS).astype(np.int64), BINS - 1)
    belongs: NDArray[np.bool_] = numbers[:, None] == np.arange(BINS)
    return belongs


def with_means(groups: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Return each group's mean as GROUP and its members as GROUP/NAME.

    Scores that the images themselves do not define are left out.
    """
    flat = {f"{group}/{name}": values for group, columns in groups.items() for name, values in columns.items()}
    means = {group: _mean(list(columns.values())) for group, columns in groups.items() if columns}
    return {name: values for name, values in (means | flat).items() if np.isfinite(values[0])}


def _mean(columns: list[Array]) -> Array:
    # A rare class may be missing from a resample: its mean is then taken over the other classes.
    valid = ~np.isnan(columns)
    total, count = np.where(valid, columns, 0).sum(axis=0), valid.sum(axis=0)
    mean: Array = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return mean


def over_seeds(runs: Sequence[Array]) -> Array:
    """Return the (R,) means over runs that are resampled too, each row with its own draw of as many runs.

    The same rows draw the same runs in every call, so that arms can be compared run by run.

    Args:
        runs: for each run, its (R,) scores under the rows of the same weights.
    """
    scores = np.stack(runs)  # [runs, R]
    count, rows = scores.shape
    chosen = np.random.default_rng(0).integers(count, size=(count, rows))
    # The first row is that of the runs and images themselves.
    chosen[:, 0] = np.arange(count)
    mean: Array = np.take_along_axis(scores, chosen, axis=0).mean(axis=0)
    return mean


def interval(values: Array) -> tuple[float, float, float]:
    """Return the value of the images themselves and the bounds of the 95 % interval over all rows with a value."""
    drawn = values[np.isfinite(values)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(values[0]), float(low), float(high)
