"""Decode a large JPEG at a fraction of its size, as libjpeg can in the frequency domain.

DALI's CPU decoder cannot do this. For training images much larger than the network's input it saves half of the work.
Only the augmenting graph uses it, because its result differs from the full decode by up to 2 of 255 on average.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data_pipeline.graph.training import NO_PIXELS


def read_reduced(path: Path, size: int) -> NDArray[np.uint8]:
    """Read a JPEG at the smallest of 1/2, 1/4 and 1/8 of its size whose sides are both at least `size`.

    Returns:
        (H, W, 3) RGB, or NO_PIXELS for a file that is no RGB or grey JPEG, is smaller than 2 * size or is damaged.
        DALI then decodes or refuses the file.
    """
    # By its name, to save opening every other file. A JPEG with another suffix is left to DALI.
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        return NO_PIXELS
    try:
        with Image.open(path, formats=("JPEG",)) as image:
            if min(image.size) < 2 * size or image.mode not in ("RGB", "L"):
                return NO_PIXELS
            # Before any pixel is read, `draft` only chooses the scale at which libjpeg decodes.
            image.draft(image.mode, (size, size))
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError):
        return NO_PIXELS
