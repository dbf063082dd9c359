"""Plan how long each arm may train: as many epochs, the same for all, as fit into the budget."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console

from data_pipeline import Batch
from model.ablation import Arm
from model.checkpoint import CheckpointInfo
from model.training import TrainingError, TrainingOptions
from model.training.learner import Learner, MultiTaskLoss
from model.training.processes import Processes

# One image takes about the same share of any batch's time, and the largest network takes minutes for a batch of 8.
TIMED_BATCH, TIMED_STEPS = 2, 2
# The part of a training step's time that goes into scoring as many images: a forward pass and the metrics.
SCORING_SHARE = 0.4


@dataclass(frozen=True)
class Size:
    """Count the images of each split that an arm sees."""

    train: int
    validation: int
    test: int


def plan_epochs(
    arms: Sequence[Arm],
    info: CheckpointInfo,
    size: Size,
    both_tasks: TrainingOptions,
    *,
    seeds: int,
    minutes: float,
    console: Console,
) -> int:
    """Return the epochs of every arm.

    Args:
        arms: those that are to be trained.
        info: has the preset's configuration.
        size: images of each split.
        both_tasks: losses of an arm that trains both tasks.
        seeds: runs of each arm.
        minutes: budget for all arms and seeds together.
        console: told which arm is being timed.

    Raises:
        TrainingError: the budget is too small for one epoch.
    """
    per_image = 0.0
    for number, arm in enumerate(arms, 1):
        console.print(f"planning: timing {arm.title} ({number} of {len(arms)})")
        per_image += seeds * seconds_per_image(arm, info, both_tasks)
    # Validation is scored after every epoch, the test split once at the end of a run.
    epoch = per_image * (size.train + SCORING_SHARE * size.validation)
    once = per_image * SCORING_SHARE * size.test
    epochs = int((60 * minutes - once) / epoch)
    if epochs < 1:
        needed = math.ceil((epoch + once) / 6) / 10
        raise TrainingError(
            f"--budget must be at least {needed:g} minutes for one epoch of {len(arms)} arms and "
            f"{seeds} seeds on this machine, got {minutes:g}; fewer --samples, --seeds or --arm take less"
        )
    return epochs


def seconds_per_image(arm: Arm, info: CheckpointInfo, both_tasks: TrainingOptions) -> float:
    """Measure the time that an arm's training takes for one image, on noise."""
    config, count = arm.config(info.config), TIMED_BATCH
    side = config.image_size
    loss = MultiTaskLoss(config.seg_channels, torch.ones(config.labels))
    learner = Learner(arm.build(config), loss, both_tasks, Processes.join())
    batch = Batch(
        image=torch.randn(count, 3, side, side),
        mask=torch.zeros(count, side, side, dtype=torch.int64),
        labels=torch.zeros(count, config.labels),
        index=torch.arange(count),
    )
    # One step to warm up, which also allocates the optimiser's moments.
    learner.step(batch, 0, TIMED_STEPS + 1)
    start = time.perf_counter()
    for number in range(TIMED_STEPS):
        learner.step(batch, number + 1, TIMED_STEPS + 1)
    return (time.perf_counter() - start) / (TIMED_STEPS * count)
