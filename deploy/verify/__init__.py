"""Compare every engine with the trained network in PyTorch fp32: in numbers, on the task, in time.

`verifier` runs an engine on `samples`, `parity` compares the numbers, `task_gate` the scores, and `timing` takes the
times of all engines together.
"""

# The results are defined here, and not where they are computed, because reports read them without torch and MONAI.
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Parity:
    """Hold the differences between an engine's outputs and the reference's.

    mask: share of pixels whose class differs.
    classification: largest difference of a label's probability.
    segmentation: mean absolute difference of the per-pixel probabilities.
    """

    mask: float
    classification: float
    segmentation: float


class Change(NamedTuple):
    """Hold an engine's score minus the reference's.

    value: on the images as they are.
    low, high: its 95 % interval over resampled images.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Hold what one engine returns on the samples, and every tolerance that it breaks.

    parity: its differences in numbers.
    changes: by score, what it lost or won on the task. Empty where there are no targets.
    scores: its own, or None where there are no targets.
    failures: a line for each broken tolerance, with the figure. Empty for a good engine.
    """

    parity: Parity
    changes: dict[str, Change]
    scores: dict[str, float] | None
    failures: tuple[str, ...]
