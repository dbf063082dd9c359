"""Hold what a network answers, and measure how far two answers are apart."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class EngineOutput(NamedTuple):
    """Hold what an engine returns for a batch of images.

    mask: (B, S, S) uint8 class indices.
    class_probs: (B, C) float32 in [0, 1].
    seg_probs: (B, K, S, S) float32 in [0, 1].
    """

    mask: NDArray[np.uint8]
    class_probs: NDArray[np.float32]
    seg_probs: NDArray[np.float32]

    def take(self, rows: slice | NDArray[np.intp]) -> "EngineOutput":
        """Return some of the images' outputs."""
        return EngineOutput(self.mask[rows], self.class_probs[rows], self.seg_probs[rows])


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

    def above(self, limit: "Parity") -> list[str]:
        """List every difference that is above its limit, with the figure."""
        return [
            f"{name} differs by {value:.2e}, more than {getattr(limit, name):.0e}"
            for name, value in vars(self).items()
            if value > getattr(limit, name)
        ]


def compare(reference: EngineOutput, candidate: EngineOutput) -> Parity:
    """Measure the differences between two engines' outputs for the same images, with infinity for NaN."""
    return Parity(
        mask=float(np.mean(reference.mask != candidate.mask)),
        classification=_finite(np.max(np.abs(reference.class_probs - candidate.class_probs))),
        segmentation=_finite(np.mean(np.abs(reference.seg_probs - candidate.seg_probs))),
    )


def _finite(value: float) -> float:
    # A comparison with NaN is always false, so it would pass every tolerance.
    return float(value) if np.isfinite(value) else float("inf")
