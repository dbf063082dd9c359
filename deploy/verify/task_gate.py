"""Decide what an engine may cost in Dice, accuracy and AUC on validation images, with intervals."""

import torch

from deploy.engines import EngineOutput
from deploy.verify import Change
from deploy.verify.samples import Targets
from model.bootstrap import Array, interval, resample, with_means
from model.metrics import TaskScores

TASK_TOLERANCE = {"dice": 0.005, "accuracy": 0.01}
COMPARED = ("dice", "accuracy", "auc")


def score(output: EngineOutput, targets: Targets) -> TaskScores:
    """Score an engine's outputs against the targets of the same images."""
    scores = TaskScores(targets.seg_classes, targets.label_names)
    scores.update(torch.from_numpy(output.mask), torch.from_numpy(output.class_probs), targets.masks, targets.labels)
    return scores


def task_changes(
    reference: EngineOutput, candidate: EngineOutput, targets: Targets, seed: int = 0
) -> dict[str, Change]:
    """Measure the changes of `dice`, `accuracy`, `auc` and of each class and label (`dice/NAME`), as `TaskScores` does.

    The bootstrap is paired: both engines are scored on the same resampled images, so what is hard about an image
    cancels.
    """
    weights = resample(range(len(targets.masks)), seed)
    before, after = (_compared(score(output, targets), weights) for output in (reference, candidate))
    return {name: Change(*interval(after[name] - before[name])) for name in before}


def lost_task(changes: dict[str, Change]) -> list[str]:
    """List the tolerances that an engine breaks, with the figure; empty for a good one."""
    return [
        f"{name} fell by {-change.value:.4f} (95 % interval {-change.high:.4f} to {-change.low:.4f}), more than {limit}"
        for name, limit in TASK_TOLERANCE.items()
        if (change := changes[name]).value < -limit
    ]


def _compared(scores: TaskScores, weights: Array) -> dict[str, Array]:
    groups = scores.weighted(weights)
    return with_means({name: groups[name] for name in COMPARED})
