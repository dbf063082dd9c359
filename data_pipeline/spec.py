"""Describe a network's input, and how to read its probabilities, for checkpoints, contracts and pipelines."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from data_pipeline.fields import INT32, are_numbers, is_number, is_whole, object_of, require, require_keys

SIXTEEN_BITS = 2**16 - 1
# Of ImageNet's training images, per RGB channel: pretrained ResNet weights expect inputs normalised with them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Hold the size and the normalisation of a network's input.

    Raises ValueError where a field breaks its rule.

    image_size: side of the square input in pixels.
    mean: mean per RGB channel, of values scaled to [0, 1].
    std: standard deviation per RGB channel, of values scaled to [0, 1].
    white_level: value that is scaled to 1 in files of 16 bits. Scanners write 12 bits, up to 4095, into such files.
        Files of fewer bits have their own white and ignore it.
    """

    image_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    white_level: int = SIXTEEN_BITS

    def __post_init__(self) -> None:
        require(is_whole(self.image_size, 1, INT32), "image_size", "a whole number above 0", self.image_size)
        # A smaller deviation would scale pixels to more than float16 holds, and 0 to infinity.
        for field, values, low in (("mean", self.mean, 0.0), ("std", self.std, 1e-4)):
            holds = are_numbers(values, low, 1.0) and len(values) == 3
            require(holds, field, f"3 numbers from {low:g} to 1", values)
        require(
            is_whole(self.white_level, 1, SIXTEEN_BITS),
            "white_level (levels in files)",
            f"a whole number from 1 to {SIXTEEN_BITS}",
            self.white_level,
        )


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Hold two probabilities for each label, chosen on validation images, between which the label is uncertain.

    Raises ValueError where a field breaks its rule.

    sensitive: `rate` of the images with the label are at or above it. Below it the label is unlikely.
    specific: `rate` of the images without the label are below it. From it on the label is likely.
    rate: the sensitivity and the specificity, above 0.5.
    """

    sensitive: tuple[float, ...]
    specific: tuple[float, ...]
    rate: float

    def __post_init__(self) -> None:
        for field, values in (("sensitive", self.sensitive), ("specific", self.specific)):
            require(are_numbers(values, 0.0, 1.0), field, "numbers from 0 to 1", values)
        counts = len(self.sensitive), len(self.specific)
        require(counts[0] == counts[1], "specific", f"{counts[0]} numbers, one for each of sensitive", self.specific)
        ordered = all(low <= high for low, high in zip(self.sensitive, self.specific, strict=True))
        require(ordered, "specific", f"at or above sensitive, {self.sensitive}", self.specific)
        require(is_number(self.rate, 0.5, 1.0), "rate", "a number from 0.5 to 1", self.rate)

    def verdict(self, label: int, probability: float) -> str:
        """Return "likely", "unlikely" or "uncertain" for a probability of that label."""
        if probability >= self.specific[label]:
            return "likely"
        return "unlikely" if probability < self.sensitive[label] else "uncertain"

    def to_fields(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    @classmethod
    def from_fields(cls, value: object) -> "Thresholds":
        """Return the thresholds that `to_fields` described.

        Raises ValueError for a missing, unknown or wrong field.
        """
        flat = object_of(value, "thresholds")
        require_keys(flat, "thresholds", [each.name for each in fields(cls)])
        return cls(**flat)
