"""What a training run may choose."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingOptions:
    """A resumed run must choose the same.

    batch_size: images of one step, over all processes.
    learning_rate: the first one; it decays to 0 with the steps (polynomial, power 0.9).
    segmentation_weight, classification_weight: of the two losses; 0 leaves a task out. The paper's are 1 and 0.25.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    segmentation_weight: float = 1.0
    classification_weight: float = 0.25


class TrainingError(Exception):
    """Training cannot go on; one line that says why."""
