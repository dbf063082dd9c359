"""Describe the input that a network expects, for checkpoints, contracts and pipelines."""

from dataclasses import dataclass

from data_pipeline.fields import INT32, is_number, is_whole, require

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
            holds = isinstance(values, tuple) and len(values) == 3 and all(is_number(one, low, 1.0) for one in values)
            require(holds, field, f"3 numbers from {low:g} to 1", values)
        require(
            is_whole(self.white_level, 1, SIXTEEN_BITS),
            "white_level (levels in files)",
            f"a whole number from 1 to {SIXTEEN_BITS}",
            self.white_level,
        )
