"""Define the preprocessing graph, which turns an encoded image into the network's normalised input.

Training, evaluation and serving all call `decode` and `normalise`. `preprocess` is the whole graph without
augmentation, and `reference.py` defines its result in NumPy and Pillow.
"""

from typing import Literal

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from numpy.typing import NDArray
from nvidia.dali.data_node import DataNode

from data_pipeline.spec import SIXTEEN_BITS, Preprocessing

Device = Literal["cpu", "gpu"]
FULL_SCALE = 255.0  # white in the graph's images


def as_input(file: bytes) -> NDArray[np.uint8]:
    """Return the bytes of a file as the graphs take them."""
    return np.frombuffer(file, dtype=np.uint8)


def decode(encoded: DataNode, spec: Preprocessing, device: Device) -> DataNode:
    """Decode an image file to RGB and resize it with antialiasing.

    Grey images are repeated in all channels, alpha is dropped, the EXIF orientation is applied and 16 bits are kept.

    Args:
        encoded: bytes of one image file, UINT8, 1-D, on the CPU.
        spec: size of the result, and the white level of files of 16 bits.
        device: where to decode. "gpu" uses DALI's mixed decoder.

    Returns:
        (S, S, 3) FLOAT in [0, 255].
    """
    # nvJPEG repeats the chroma of a JPEG by default, where libjpeg, on which engines are verified, interpolates it.
    decoder = {"device": "mixed", "jpeg_fancy_upsampling": True} if device == "gpu" else {"device": "cpu"}
    # DALI decodes to bytes 2 to 3 times faster than to FLOAT, so files of 8 bits get a separate branch. The result
    # keeps the scale of bytes, which saves a pass over these images.
    if _eight_bits(encoded):
        image = shrink(fn.decoders.image(encoded, output_type=types.RGB, **decoder), spec.image_size)
    else:
        # DALI returns FLOAT as a share of the file's full range. That range is taken for 16 bits, and the white level
        # becomes its new end.
        deep = fn.decoders.image(encoded, output_type=types.RGB, dtype=types.FLOAT, **decoder)
        image = shrink(deep, spec.image_size) * (FULL_SCALE * SIXTEEN_BITS / spec.white_level)
    return image


def _eight_bits(encoded: DataNode) -> DataNode:
    """Tell whether a file is a JPEG, or a PNG of at most 8 bits a channel.

    The graph sees bytes only: a JPEG begins with FF, a PNG with 89, and byte 24 of a PNG's header is its bit depth.
    """
    return (encoded[0] == 0xFF) | ((encoded[0] == 0x89) & (encoded[24] <= 8))


def place(node: DataNode, device: Device) -> DataNode:
    """Move a node to the GPU if the graph runs there."""
    return node.gpu() if device == "gpu" else node


def shrink(image: DataNode, size: int) -> DataNode:
    """Resize (H, W, C) to (size, size, C) FLOAT on the same scale, with antialiasing where the image shrinks."""
    return fn.resize(image, size=(size, size), interp_type=types.INTERP_LINEAR, antialias=True, dtype=types.FLOAT)


def normalise(image: DataNode, spec: Preprocessing) -> DataNode:
    """Map (S, S, 3) in [0, 255] to (3, S, S) FLOAT, as (value / 255 - mean) / std."""
    mean, std = ([FULL_SCALE * value for value in values] for values in (spec.mean, spec.std))
    return fn.crop_mirror_normalize(image, mean=mean, std=std, dtype=types.FLOAT, output_layout="CHW")


def preprocess(encoded: DataNode, spec: Preprocessing, device: Device) -> DataNode:
    """Map the bytes of one JPEG, PNG or TIFF file to the network's normalised input.

    Args:
        encoded: bytes of the file, UINT8, 1-D, on the CPU.
        spec: size and normalisation of the result.
        device: "gpu" decodes with the mixed decoder and stays on the GPU. Nothing else differs.

    Returns:
        (3, S, S) FLOAT on `device`.
    """
    return normalise(decode(encoded, spec, device), spec)
