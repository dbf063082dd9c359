"""The preprocessing in NumPy and PIL: the definition that the DALI graph is held to on the CPU and on the GPU."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from data_pipeline.spec import SIXTEEN_BITS, Preprocessing

BITS_PER_SAMPLE = 258
DEEP_MODES = ("I;16", "I;16B", "I")


def reference_preprocess(data: bytes, spec: Preprocessing) -> NDArray[np.float64]:
    """Bytes of one image file -> (3, S, S), as `preprocess` does; PIL itself reads colour files at 8 bits only."""
    image = reference_resize(reference_decode(data), spec.image_size)
    if data[0] != 0xFF and not (data[0] == 0x89 and data[24] <= 8):
        image = image * (SIXTEEN_BITS / spec.white_level)
    normalised = (image - np.array(spec.mean)) / np.array(spec.std)
    return np.asarray(normalised.transpose(2, 0, 1))


def reference_decode(data: bytes) -> NDArray[np.float64]:
    """RGB (H, W, 3) in [0, 1] of the file's first image, turned as its EXIF data say, without its alpha."""
    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode in DEEP_MODES:
            return np.repeat(np.asarray(image, np.float64)[..., None] / _white(opened), 3, axis=2)
        return np.asarray(image.convert("RGB"), np.float64) / 255


def _white(image: Image.Image) -> int:
    """Largest level of a deep grey file: PIL opens a TIFF of 12 bits as one of 16 and keeps its levels."""
    bits = image.tag_v2.get(BITS_PER_SAMPLE, (16,))[0] if isinstance(image, TiffImageFile) else 16
    return int(2**bits - 1)


def reference_resize(image: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """(H, W, C) -> (size, size, C) with a triangle filter as wide as the shrink factor (linear where it enlarges)."""
    rows, columns = (_triangle_weights(length, size) for length in image.shape[:2])
    return np.asarray(np.einsum("yh,hwc,xw->yxc", rows, image, columns, optimize=True))


def _triangle_weights(length: int, size: int) -> NDArray[np.float64]:
    """(size, length) weights of each input pixel in each output pixel; rows sum to 1, the border is repeated."""
    factor = length / size
    reach = max(factor, 1.0)
    centres = (np.arange(size) + 0.5) * factor - 0.5
    outside = int(np.ceil(reach))
    positions = np.arange(-outside, length + outside)
    spread = np.clip(1 - np.abs(positions - centres[:, None]) / reach, 0, None)
    weights = np.zeros((size, length))
    np.add.at(weights.T, np.clip(positions, 0, length - 1), spread.T)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
