"""What a training run may choose."""

from argparse import ArgumentParser, ArgumentTypeError
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


def add_levels(parser: ArgumentParser) -> None:
    """The option `--levels`, 256 to 65535."""
    parser.add_argument(
        "--levels",
        type=_levels,
        default=65535,
        help="highest level in files of 16 bits: 4095 where they hold 12 bits",
    )


def _levels(text: str) -> int:
    if not text.isdecimal() or not 255 < int(text) < 65536:
        raise ArgumentTypeError(f"must be 256 to 65535, got {text}")
    return int(text)


class TrainingError(Exception):
    """Training cannot go on; one line that says why."""
