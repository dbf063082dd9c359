"""Hold every engine to the trained network in PyTorch fp32: in numbers, on the task, in time.

What verification finds is defined here, without torch or MONAI, because reports read it back on their own.
"""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Parity:
    """Hold the largest and mean differences to the fp32 PyTorch network.

    mask: share of pixels whose class differs.
    classification: largest difference of a probability.
    segmentation: mean absolute difference of the per-pixel probabilities.
    """

    mask: float
    classification: float
    segmentation: float


class Change(NamedTuple):
    """Hold an engine's score minus the reference's, and the 95 % interval of that over resampled images."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Hold what one engine is found to give, and every tolerance that it breaks.

    changes: by score, what the engine lost or won on the task; empty where there are no targets to score against.
    scores: the engine's own; None where there are no targets.
    failures: a line for each broken tolerance, with the figure; empty for a good engine.
    """

    parity: Parity
    changes: dict[str, Change]
    scores: dict[str, float] | None
    failures: tuple[str, ...]
