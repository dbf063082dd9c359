"""Look down on a volume: how thick each class is below each point of its surface."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def thickness_of(mask: NDArray[np.uint8], classes: int) -> NDArray[np.uint16]:
    """Count the pixels of each class in each column of a slice.

    Args:
        mask: (H, W) class indices.
        classes: number of classes with the background.

    Returns:
        (classes - 1, W) pixels.
    """
    return np.array([np.count_nonzero(mask == index, axis=0) for index in range(1, classes)], np.uint16)


def map_png(thickness: NDArray[np.float32]) -> bytes:
    """Encode a map (N, W) as a grey PNG file, a row for each slice, from black for nothing to white for its maximum."""
    most = float(thickness.max(initial=0)) or 1.0
    file = io.BytesIO()
    Image.fromarray(np.rint(255 * thickness / most).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
