"""The task gate: what an engine costs in Dice, accuracy and AUC on validation images, with intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from monai.metrics import compute_dice
from numpy.typing import NDArray
from torch.nn import functional as F

from deploy.engines import EngineOutput
from deploy.verify import Truth

RESAMPLES = 1000
TASK_TOLERANCE = {"dice": 0.005, "accuracy": 0.01}
Array = NDArray[np.float64]


class Change(NamedTuple):
    """An engine's score minus the reference's, and the 95 % interval of that over images drawn anew."""

    value: float
    low: float
    high: float


def task_changes(reference: EngineOutput, candidate: EngineOutput, truth: Truth, seed: int = 0) -> dict[str, Change]:
    """Changes of `dice`, `accuracy`, `auc` and of each class and label (`dice/NAME`), named as `TaskScores` does.

    The bootstrap is paired: both engines are scored on the same drawn images, so what is hard about an image cancels.
    """
    draws = np.random.default_rng(seed).multinomial(
        len(truth.masks), [1 / len(truth.masks)] * len(truth.masks), RESAMPLES
    )
    weights = np.concatenate([np.ones((1, draws.shape[1])), draws])  # the first row is the images as they are
    before, after = (_scores(output, truth, weights) for output in (reference, candidate))
    differences = {name: after[name] - before[name] for name in before}
    return {name: _change(values) for name, values in differences.items() if np.isfinite(values[0])}


def lost_task(changes: dict[str, Change]) -> list[str]:
    """The tolerances that an engine breaks, with the figure; empty for a good one."""
    return [
        f"{name} fell by {-change.value:.4f} (95 % interval {-change.high:.4f} to {-change.low:.4f}), more than {limit}"
        for name, limit in TASK_TOLERANCE.items()
        if (change := changes[name]).value < -limit
    ]


def _change(differences: Array) -> Change:
    """The first is that of the images as they are; draws that never show a class say nothing."""
    drawn = differences[np.isfinite(differences)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Change(float(differences[0]), float(low), float(high))


def _scores(output: EngineOutput, truth: Truth, weights: Array) -> dict[str, Array]:
    """Each score under each row of image weights (R, N): (R,)."""
    groups = {
        "dice": dict(zip(truth.seg_classes[1:], _dice(output, truth).T, strict=True)),
        "accuracy": dict(zip(truth.label_names, ((output.class_probs > 0.5) == truth.labels.numpy()).T, strict=True)),
    }
    scores = {
        group: {name: _weighted_mean(values.astype(np.float64), weights) for name, values in columns.items()}
        for group, columns in groups.items()
    }
    probs, labels = output.class_probs.astype(np.float64), truth.labels.numpy() > 0.5
    scores["auc"] = {
        name: _auc(probs[:, i], labels[:, i], weights)
        for i, name in enumerate(truth.label_names)
        if 0 < labels[:, i].sum() < len(labels)
    }
    flat = {f"{group}/{name}": values for group, columns in scores.items() for name, values in columns.items()}
    means = {group: _mean(list(columns.values())) for group, columns in scores.items() if columns}
    return means | flat


def _dice(output: EngineOutput, truth: Truth) -> Array:
    """(N, classes without background), NaN where the truth does not show the class."""
    count = len(truth.seg_classes)
    found, true = (
        F.one_hot(mask.long(), count).permute(0, 3, 1, 2)[:, 1:]
        for mask in (torch.from_numpy(output.mask), truth.masks)
    )
    values: Array = compute_dice(found, true, ignore_empty=True).double().numpy()
    return values


def _weighted_mean(values: Array, weights: Array) -> Array:
    valid = ~np.isnan(values)
    total = weights @ valid
    mean: Array = np.divide(
        weights @ np.where(valid, values, 0), total, out=np.full(len(weights), np.nan), where=total > 0
    )
    return mean


def _mean(columns: list[Array]) -> Array:
    """Over the columns that have a value, row by row."""
    valid = ~np.isnan(columns)
    total, count = np.where(valid, columns, 0).sum(axis=0), valid.sum(axis=0)
    mean: Array = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return mean


def _auc(probs: Array, positive: NDArray[np.bool_], weights: Array) -> Array:
    """Share of pairs, one image with the label and one without, that are ranked right; ties count half."""
    difference = probs[positive][:, None] - probs[~positive]
    right = (difference > 0) + 0.5 * (difference == 0)
    pairs = weights[:, positive].sum(axis=1) * weights[:, ~positive].sum(axis=1)
    ranked = np.einsum("rp,pn,rn->r", weights[:, positive], right, weights[:, ~positive], optimize=True)
    area: Array = np.divide(ranked, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return area
