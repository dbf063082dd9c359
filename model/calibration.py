"""Calibrate label probabilities on validation images: a temperature for each label, and thresholds to decide by."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.fields import INT32, are_numbers, is_whole, object_of, require, require_keys
from data_pipeline.spec import Thresholds

RATE = 0.95  # the sensitivity and specificity that thresholds are chosen for
# Images with and without a label that it takes: of fewer, not one may be missed at that rate.
FEWEST = 20
COLDEST, HOTTEST = 0.05, 20.0  # temperatures
# Of the gamma prior for 1 / temperature: its standard deviation is about a factor of two around 1.
PRIOR = 2.0
AS_TRAINED = (1.0, 0.0, 1.0)  # temperature and thresholds of a label that nothing was fitted to
CLOSEST = 1e-7  # of a probability to 0 and 1: there is hardly a float32 between it and 1

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Hold what was fitted to validation images.

    Raises ValueError where a field breaks its rule.

    temperatures: what each label's logit is divided by. 1 leaves it as it was trained.
    thresholds: in calibrated probabilities.
    images: number of validation images.
    """

    temperatures: tuple[float, ...]
    thresholds: Thresholds
    images: int

    @property
    def fitted(self) -> tuple[bool, ...]:
        """Tell of each label whether there were images enough to fit anything to."""
        pairs = zip(self.temperatures, self.thresholds.sensitive, self.thresholds.specific, strict=True)
        return tuple(pair != AS_TRAINED for pair in pairs)

    def __post_init__(self) -> None:
        rule = f"numbers from {COLDEST:g} to {HOTTEST:g}"
        require(are_numbers(self.temperatures, COLDEST, HOTTEST), "temperatures", rule, self.temperatures)
        labels = len(self.temperatures)
        values = self.thresholds.sensitive
        require(len(values) == labels, "thresholds", f"{labels} pairs, one for each of temperatures", values)
        require(is_whole(self.images, 1, INT32), "images", "a whole number above 0", self.images)

    @classmethod
    def from_fields(cls, value: object) -> "Calibration":
        """Return the calibration that `dataclasses.asdict` made fields of.

        Raises ValueError for a missing, unknown or wrong field.
        """
        flat: dict[str, Any] = object_of(value, "calibration")
        require_keys(flat, "calibration", [each.name for each in fields(cls)])
        return cls(**{**flat, "thresholds": Thresholds.from_fields(flat["thresholds"])})


def fit_calibration(probs: Array, target: NDArray[np.bool_]) -> Calibration:
    """Fit temperatures and choose thresholds.

    A label with fewer than `FEWEST` images of either kind keeps a temperature of 1 and the thresholds 0 and 1, by which
    it is uncertain but where its probability is 1 in float32.

    Args:
        probs: label probabilities (N, C) of the validation images before any temperature.
        target: (N, C), whether an image has the label.
    """
    temperatures = []
    sensitive, specific = [0.0] * target.shape[1], [1.0] * target.shape[1]
    for label, (column, positive) in enumerate(zip(probs.T, target.T, strict=True)):
        enough = FEWEST <= positive.sum() <= len(positive) - FEWEST
        temperatures.append(fit_temperature(column, positive) if enough else 1.0)
        if enough:
            sensitive[label], specific[label] = choose_thresholds(with_temperature(column, temperatures[-1]), positive)
    thresholds = Thresholds(sensitive=tuple(sensitive), specific=tuple(specific), rate=RATE)
    return Calibration(temperatures=tuple(temperatures), thresholds=thresholds, images=len(probs))


def with_temperature(probs: Array, temperature: float | Array) -> Array:
    """Return probabilities whose logits are divided by a temperature."""
    return _sigmoid(logits_of(probs) / temperature)


def logits_of(probs: Array) -> Array:
    """Return the logits of probabilities, finite ones for 0 and 1 too."""
    inside = np.clip(probs.astype(np.float64), CLOSEST, 1 - CLOSEST)
    logits: Array = np.log(inside) - np.log1p(-inside)
    return logits


def _sigmoid(logits: Array) -> Array:
    probs: Array = 1 / (1 + np.exp(-logits))
    return probs


def fit_temperature(probs: Array, positive: NDArray[np.bool_]) -> float:
    """Return the temperature under which the (N,) labels are the most likely.

    A gamma prior with its mode at 1 keeps it finite: a label that is told apart without a fault would be the most
    likely at a temperature of 0.
    """
    logits = logits_of(probs)
    # Minus the logarithm of the posterior is convex in 1 / temperature, so that its slope changes its sign once.
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(60):
        middle = (low + high) / 2
        slope = np.sum(logits * (_sigmoid(middle * logits) - positive)) + PRIOR * (1 - 1 / middle)
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 2 / float(low + high)


def choose_thresholds(probs: Array, positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the largest threshold of a sensitivity of `RATE`, and the smallest one of a specificity of `RATE`.

    Both lie halfway to the next probability of an image. Where one threshold reaches both rates, both are the one of
    these that is nearest to 0.5.
    """
    with_label, without = np.sort(probs[positive]), np.sort(probs[~positive])[::-1]
    # So many images may lie on the wrong side. The small sum keeps 0.05 * 20 from being less than 1.
    lowest, highest = (kind[int((1 - RATE) * len(kind) + 1e-9)] for kind in (with_label, without))
    sensitive = (lowest + probs[probs < lowest].max(initial=0.0)) / 2
    specific = (highest + probs[probs > highest].min(initial=1.0)) / 2
    if sensitive > specific:
        sensitive = specific = np.clip(0.5, specific, sensitive)
    return float(sensitive), float(specific)
