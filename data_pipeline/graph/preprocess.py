"""The one preprocessing graph: an encoded image becomes the network's normalised input.

Training, evaluation and serving all call `decode` and `normalise`; `preprocess` is the whole of it without
augmentation. `reference.py` defines the result in NumPy and PIL.
"""

from typing import Literal

import nvidia.dali.fn as fn
import nvidia.dali.types as types
from nvidia.dali.data_node import DataNode

from data_pipeline.spec import SIXTEEN_BITS, Preprocessing

Device = Literal["cpu", "gpu"]
FULL_SCALE = 255.0  # white, in the graph's images


def decode(encoded: DataNode, spec: Preprocessing, device: Device) -> DataNode:
    """Bytes of one image file -> RGB (S, S, 3) FLOAT in [0, 255], resized antialiased.

    Grey is repeated, alpha dropped, the EXIF orientation applied, 16 bits kept. Files of 8 bits take the first
    branch because DALI decodes to bytes 2 to 3 times faster than to FLOAT, and their scale is kept to save a pass.
    """
    decoder = "mixed" if device == "gpu" else "cpu"
    if _eight_bits(encoded):
        image = shrink(fn.decoders.image(encoded, device=decoder, output_type=types.RGB), spec.image_size)
    else:
        deep = fn.decoders.image(encoded, device=decoder, output_type=types.RGB, dtype=types.FLOAT)
        image = shrink(deep, spec.image_size) * (FULL_SCALE * SIXTEEN_BITS / spec.white_level)
    return image


def _eight_bits(encoded: DataNode) -> DataNode:
    """True for a JPEG (first byte FF) and for a PNG (89) whose header gives at most 8 bits a channel (byte 24)."""
    return (encoded[0] == 0xFF) | ((encoded[0] == 0x89) & (encoded[24] <= 8))


def place(node: DataNode, device: Device) -> DataNode:
    """`node`, moved to the GPU when the graph runs there."""
    return node.gpu() if device == "gpu" else node


def shrink(image: DataNode, size: int) -> DataNode:
    """Resize (H, W, C) to (size, size, C) FLOAT, antialiased where it shrinks; values keep their scale."""
    return fn.resize(image, size=(size, size), interp_type=types.INTERP_LINEAR, antialias=True, dtype=types.FLOAT)


def normalise(image: DataNode, spec: Preprocessing) -> DataNode:
    """(S, S, 3) in [0, 255] -> (3, S, S) FLOAT, (value / 255 - mean) / std."""
    mean, std = ([FULL_SCALE * value for value in values] for values in (spec.mean, spec.std))
    return fn.crop_mirror_normalize(image, mean=mean, std=std, dtype=types.FLOAT, output_layout="CHW")


def preprocess(encoded: DataNode, spec: Preprocessing, device: Device) -> DataNode:
    """Bytes of one JPEG, PNG or TIFF file (UINT8, 1-D) -> normalised (3, S, S) FLOAT.

    device: "gpu" decodes with the mixed backend and stays on the GPU; nothing else differs.
    """
    return normalise(decode(encoded, spec, device), spec)
