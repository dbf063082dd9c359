"""Decoding a large JPEG at a fraction of its size, which libjpeg does in the frequency domain.

DALI's CPU decoder cannot; for training images much larger than the network's input it saves half of the work. Only the
augmenting path uses it: its result is within 2 of 255 of the full decode on average (tested), not equal to it.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data_pipeline.graph.training import NO_PIXELS


def read_reduced(path: Path, size: int) -> NDArray[np.uint8]:
    """RGB (H, W, 3) at the smallest of 1/2, 1/4, 1/8 with both sides at least `size`.

    NO_PIXELS for a file that is no RGB or grey JPEG, is smaller than 2 * size, or is damaged: DALI decodes
    (or refuses) it.
    """
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        return NO_PIXELS
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            if min(image.size) < 2 * size or image.mode not in ("RGB", "L"):
                return NO_PIXELS
            image.draft(image.mode, (size, size))
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return NO_PIXELS
