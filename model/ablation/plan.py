"""How long each arm may train: as many epochs, the same for all, as fit into the budget."""

import time
from dataclasses import dataclass

import torch

from data_pipeline import Batch
from model.ablation.arms import ARMS, Arm
from model.checkpoint import CheckpointInfo
from model.training.learner import Learner
from model.training.losses import MultiTaskLoss
from model.training.options import TrainingError, TrainingOptions
from model.training.processes import Processes

TIMED_STEPS = 2
SCORING_SHARE = 0.4  # of a training step's time goes into scoring as many images (a forward pass and the metrics)


@dataclass(frozen=True)
class Size:
    """Images of each split that an arm sees."""

    train: int
    validation: int
    test: int


def plan_epochs(info: CheckpointInfo, size: Size, both: TrainingOptions, seeds: int, minutes: float) -> int:
    """Epochs of every arm; raises TrainingError where the budget does not hold one."""
    per_image = sum(seconds_per_image(arm, info, both) for arm in ARMS) * seeds
    epoch = per_image * (size.train + SCORING_SHARE * size.validation)
    once = per_image * SCORING_SHARE * size.test
    epochs = int((60 * minutes - once) / epoch)
    if epochs < 1:
        raise TrainingError(
            f"--budget must be at least {(epoch + once) / 60:.0f} minutes for one epoch of {len(ARMS)} arms and "
            f"{seeds} seeds on this machine, got {minutes:g}; fewer --samples or --seeds take less"
        )
    return epochs


def seconds_per_image(arm: Arm, info: CheckpointInfo, both: TrainingOptions) -> float:
    """Measured over a few training steps on noise, after one to warm up."""
    config, count = arm.config(info.config), both.batch_size
    side = config.image_size
    loss = MultiTaskLoss(config.seg_channels, torch.ones(config.labels))
    learner = Learner(arm.build(config), loss, both, Processes.join())
    batch = Batch(
        torch.randn(count, 3, side, side),
        torch.zeros(count, side, side, dtype=torch.int64),
        torch.zeros(count, config.labels),
        torch.arange(count),
    )
    learner.step(batch, 0, TIMED_STEPS + 1)
    start = time.perf_counter()
    for number in range(TIMED_STEPS):
        learner.step(batch, number + 1, TIMED_STEPS + 1)
    return (time.perf_counter() - start) / (TIMED_STEPS * count)
