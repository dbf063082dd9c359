"""Decide what an engine may lose in Dice and accuracy on validation images, with intervals."""

import torch

from deploy.engines import EngineOutput
from deploy.verify import Change
from deploy.verify.samples import Targets
from model.bootstrap import Array, interval, resample, with_means
from model.metrics import TaskScores

TASK_TOLERANCE = {"dice": 0.005, "accuracy": 0.01}
COMPARED = ("dice", "accuracy", "auc")  # AUC is reported and has no tolerance


def score(output: EngineOutput, targets: Targets) -> TaskScores:
    """Score an engine's outputs against the targets of the same images."""
    scores = TaskScores(targets.seg_classes, targets.label_names)
    scores.update(torch.from_numpy(output.mask), torch.from_numpy(output.class_probs), targets.masks, targets.labels)
    return scores


def task_changes(
    reference: EngineOutput, candidate: EngineOutput, targets: Targets, seed: int = 0
) -> dict[str, Change]:
    """Measure how the candidate's scores differ from the reference's.

    The names are those of `TaskScores`: `dice`, `accuracy`, `auc`, and each class or label as in `dice/lesion`.
    """
    # A paired bootstrap: both engines are scored on the same resampled images, so what is hard about an image cancels.
    weights = resample(range(len(targets.masks)), seed)
    before, after = (_compared(score(output, targets), weights) for output in (reference, candidate))
    return {name: Change(*interval(after[name] - before[name])) for name in before}


def broken_task_tolerances(changes: dict[str, Change]) -> list[str]:
    """List every tolerance on the task that an engine breaks, with the figure."""
    # The value decides. The interval tells the reader how far to trust it.
    return [
        f"{name} fell by {-change.value:.4f} (95 % interval {-change.high:.4f} to {-change.low:.4f}), more than {limit}"
        for name, limit in TASK_TOLERANCE.items()
        if (change := changes[name]).value < -limit
    ]


def _compared(scores: TaskScores, weights: Array) -> dict[str, Array]:
    groups = scores.weighted(weights)
    return with_means({name: groups[name] for name in COMPARED})
