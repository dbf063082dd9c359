"""Compare every engine with the trained network in PyTorch fp32: in numbers, on the task, in time.

This file defines the result of a verification and its tolerances. `task_gate` loads the images and compares the
scores, `verifier` runs the engines, `turns` times them.
"""

from dataclasses import dataclass
from typing import NamedTuple

from deploy.network.parity import Parity, compare

SCORES = ("dice", "accuracy", "auc")  # on the task. AUC is reported and has no tolerance


class Change(NamedTuple):
    """Hold an engine's score minus the reference's.

    value: on the images as they are.
    low: lower end of its 95 % interval over resampled images.
    high: upper end of the same.
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


# fp32 engines only sum in another order. fp16 and bf16 round at 2^-11 and 2^-8, carried through some 60 layers.
PARITY_TOLERANCE = {
    "fp32": Parity(mask=0.001, classification=0.001, segmentation=0.0001),
    "tf32": Parity(mask=0.005, classification=0.01, segmentation=0.001),  # multiplies with the 10 bits of fp16
    "fp16": Parity(mask=0.005, classification=0.01, segmentation=0.001),
    "bf16": Parity(mask=0.02, classification=0.05, segmentation=0.01),
    # Eight bits are verified on the task. These limits only notice NaN.
    "int8": Parity(mask=1.0, classification=1.0, segmentation=1.0),
    "mixed": Parity(mask=1.0, classification=1.0, segmentation=1.0),
    "fp8": Parity(mask=1.0, classification=1.0, segmentation=1.0),
}


def broken_tolerances(precision: str, parity: Parity) -> list[str]:
    """List every numeric tolerance that an engine breaks, with the figure."""
    return parity.above(PARITY_TOLERANCE[precision])


__all__ = ["PARITY_TOLERANCE", "SCORES", "Change", "Parity", "Verification", "broken_tolerances", "compare"]
