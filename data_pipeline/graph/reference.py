"""Define the result of the preprocessing graph in NumPy and Pillow, for tests on the CPU and on the GPU."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from data_pipeline.spec import SIXTEEN_BITS, Preprocessing

DEEP_MODES = ("I;16", "I;16B", "I")
BITS_PER_SAMPLE = 258  # number of the tag of a TIFF


def reference_preprocess(data: bytes, spec: Preprocessing) -> NDArray[np.float64]:
    """Map the bytes of one image file to the network's input, as `preprocess` does.

    Pillow reads colour files at 8 bits only, so this defines 16 bits for grey files only.

    Returns:
        (3, S, S) normalised values.
    """
    image = reference_resize(reference_decode(data), spec.image_size)
    # The white level belongs to files of 16 bits, written here independently of the graph and of what it is given.
    if _depth(data) == 16:
        image = image * (SIXTEEN_BITS / spec.white_level)
    normalised = (image - np.array(spec.mean)) / np.array(spec.std)
    return np.asarray(normalised.transpose(2, 0, 1))


def _depth(data: bytes) -> int:
    """Return the bits a channel of a file: Pillow opens a PNG of 16 bits and three channels as one of 8."""
    with Image.open(io.BytesIO(data)) as image:
        if isinstance(image, TiffImageFile):
            return int(image.tag_v2.get(BITS_PER_SAMPLE, (1,))[0])
        return data[24] if image.format == "PNG" else 8


def reference_decode(data: bytes) -> NDArray[np.float64]:
    """Decode a file's first image, turned by its EXIF orientation and without alpha.

    Returns:
        (H, W, 3) RGB in [0, 1].
    """
    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
        # `convert("RGB")` would clip these modes to 8 bits.
        if image.mode in DEEP_MODES:
            return np.repeat(np.asarray(image, np.float64)[..., None] / _largest_value(opened), 3, axis=2)
        return np.asarray(image.convert("RGB"), np.float64) / 255


def _largest_value(image: Image.Image) -> int:
    """Return the largest value that a deep grey file can hold.

    Pillow opens a TIFF of 12 bits as one of 16 bits and keeps its values, so the depth comes from the file's tags.
    """
    bits = image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0] if isinstance(image, TiffImageFile) else 16
    return int(2**bits - 1)


def reference_resize(image: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Resize (H, W, C) to (size, size, C) with a triangle filter.

    The filter is as wide as the image shrinks. Where the image grows this is linear interpolation.
    """
    rows, columns = (_triangle_weights(length, size) for length in image.shape[:2])
    return np.asarray(np.einsum("yh,hwc,xw->yxc", rows, image, columns, optimize=True))


def _triangle_weights(length: int, size: int) -> NDArray[np.float64]:
    """Compute the weight of each input pixel in each output pixel along one axis.

    Returns:
        (size, length) weights whose rows sum to 1. Pixels at the border are repeated outwards.
    """
    factor = length / size
    reach = max(factor, 1.0)
    # Pixel centres lie at half-integers: output centre i + 0.5 corresponds to input centre (i + 0.5) * factor.
    centres = (np.arange(size) + 0.5) * factor - 0.5
    outside = int(np.ceil(reach))
    positions = np.arange(-outside, length + outside)
    spread = np.clip(1 - np.abs(positions - centres[:, None]) / reach, 0, None)
    weights = np.zeros((size, length))
    # What falls outside of the image is added to the border pixel. `+=` would count a repeated index only once.
    np.add.at(weights.T, np.clip(positions, 0, length - 1), spread.T)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
