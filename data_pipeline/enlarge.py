"""Bring the network's probabilities to an image's own size, and decide the mask there.

An index cannot be interpolated, so a mask that is enlarged has steps as large as the network's pixels. Probabilities
can: deciding comes last. The module needs NumPy and Pillow only, because the client imports it on machines without
torch and DALI.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Probabilities = NDArray[np.float32]
STRIP_PIXELS = 1 << 22  # of the result, that are in memory as floats at a time
DECISION = 0.5  # a probability above it makes a pixel the class of a mask of two classes


def enlarge(probabilities: Probabilities, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the mask of an image of any size.

    Pixel centres lie at half-integers, as in the preprocessing that shrank the image, so nothing is shifted. Where a
    side of the image is smaller than the network's view, its pixels get the mean of what they cover.

    Args:
        probabilities: (K, h, w) of the classes, or (1, h, w) of the only one beside the background.
        size: (width, height) of the image, as Pillow gives it, upright.

    Returns:
        (height, width) class indices.
    """
    width, height = size
    mask = np.empty((height, width), np.uint8)
    for rows in _strips(width, height):
        mask[rows] = decide([_resized(plane, width, height, rows) for plane in probabilities])
    return mask


def decide(planes: list[Probabilities]) -> NDArray[np.uint8]:
    """Return the class of each pixel, from a plane of probabilities for each class or for the only one.

    Of equal probabilities the first class wins, as in the network.
    """
    if len(planes) == 1:
        return (planes[0] > DECISION).astype(np.uint8)
    best, mask = planes[0], np.zeros(planes[0].shape, np.uint8)
    for index, plane in enumerate(planes[1:], 1):
        mask[plane > best] = index
        best = np.maximum(best, plane)
    return mask


def resize_planes(probabilities: Probabilities, size: tuple[int, int]) -> Probabilities:
    """Return the probabilities (K, height, width) themselves at an image's size, given as (width, height)."""
    width, height = size
    return np.stack([_resized(plane, width, height, slice(0, height)) for plane in probabilities])


def _strips(width: int, height: int) -> Iterator[slice]:
    rows = max(1, STRIP_PIXELS // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _resized(plane: Probabilities, width: int, height: int, rows: slice) -> Probabilities:
    """Return some rows of a plane that is resized as a whole."""
    scale = plane.shape[0] / height
    box = (0.0, rows.start * scale, float(plane.shape[1]), rows.stop * scale)
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    # Linear between centres where the plane grows, a triangle of the width of the step where it shrinks: Pillow's own
    # pixels at the borders of the box are those of the whole plane.
    resized = image.resize((width, rows.stop - rows.start), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)
