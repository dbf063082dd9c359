"""What a network expects of its input, as checkpoints, contracts and pipelines pass it on (imports no DALI)."""

from dataclasses import dataclass

SIXTEEN_BITS = 2**16 - 1


@dataclass(frozen=True)
class Preprocessing:
    """Part of a checkpoint's metadata: what the network expects of its input.

    image_size: side of the square input in pixels.  mean, std: per RGB channel, of values scaled to [0, 1].
    levels: the level that is scaled to 1 in files of 16 bits; scanners write 12 bits, up to 4095, into such files.
        JPEG files and PNG files of up to 8 bits are left alone, every TIFF file is taken for one of 16 bits.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    levels: int = SIXTEEN_BITS
