"""The task gate: what an engine costs in Dice, accuracy and AUC on validation images, with intervals."""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics import compute_dice

from deploy.engines import EngineOutput
from deploy.report import Change
from deploy.verify import Truth
from model.metrics import one_hot
from model.statistics import Array, interval, resample, weighted_auc, weighted_mean, with_means

TASK_TOLERANCE = {"dice": 0.005, "accuracy": 0.01}


def task_changes(reference: EngineOutput, candidate: EngineOutput, truth: Truth, seed: int = 0) -> dict[str, Change]:
    """Changes of `dice`, `accuracy`, `auc` and of each class and label (`dice/NAME`), named as `TaskScores` does.

    The bootstrap is paired: both engines are scored on the same drawn images, so what is hard about an image cancels.
    """
    weights = resample(range(len(truth.masks)), seed)
    before, after = (_scores(output, truth, weights) for output in (reference, candidate))
    return {name: Change(*interval(after[name] - before[name])) for name in before}


def lost_task(changes: dict[str, Change]) -> list[str]:
    """The tolerances that an engine breaks, with the figure; empty for a good one."""
    return [
        f"{name} fell by {-change.value:.4f} (95 % interval {-change.high:.4f} to {-change.low:.4f}), more than {limit}"
        for name, limit in TASK_TOLERANCE.items()
        if (change := changes[name]).value < -limit
    ]


def _scores(output: EngineOutput, truth: Truth, weights: Array) -> dict[str, Array]:
    """Each score under each row of image weights (R, N): (R,)."""
    probs, labels = output.class_probs.astype(np.float64), truth.labels.numpy() > 0.5
    right = ((probs > 0.5) == labels).astype(np.float64)
    dice = zip(truth.seg_classes[1:], _dice(output, truth).T, strict=True)
    return with_means(
        {
            "dice": {name: weighted_mean(values, weights) for name, values in dice},
            "accuracy": {name: weighted_mean(right[:, i], weights) for i, name in enumerate(truth.label_names)},
            "auc": {name: weighted_auc(probs[:, i], labels[:, i], weights) for i, name in enumerate(truth.label_names)},
        }
    )


def _dice(output: EngineOutput, truth: Truth) -> Array:
    """(N, classes without background), NaN where the truth does not show the class."""
    masks = (torch.from_numpy(output.mask), truth.masks)
    found, true = (one_hot(mask, len(truth.seg_classes)) for mask in masks)
    values: Array = compute_dice(found, true, ignore_empty=True).double().numpy()
    return values
