"""The DALI graph of training: the shared preprocessing, with augmentation between decoding and normalisation."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from numpy.typing import NDArray
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import pipeline_def

from data_pipeline.graph.augment import Augmentation, grain, stretch, twist, warp
from data_pipeline.graph.preprocess import FULL_SCALE, Device, decode, normalise, place, shrink
from data_pipeline.spec import Preprocessing

# path of the image and of the mask as bytes, their pixels where they are already decoded, then the drawn parameters
TYPES = [types.UINT8] * 4 + [types.FLOAT] * 3
LAYOUTS = ["", "", "HWC", "HWC", "", "", "HWC"]
NO_PIXELS: NDArray[np.uint8] = np.zeros((1, 1, 1), np.uint8)  # stands for "read the file"

Columns = tuple[list[NDArray[np.generic]], ...]


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def training_pipeline(
    columns: Iterable[Columns], spec: Preprocessing, ranges: Augmentation | None, device: Device
) -> tuple[DataNode, DataNode]:
    """Image (3, S, S) FLOAT and mask (S, S, 1) UINT8 from `columns`: batches of the inputs listed above.

    ranges: None leaves augmentation out; the image is then what serving computes, the mask resized by nearest.
    """
    size, count = spec.image_size, input_count(ranges)
    inputs = fn.external_source(columns, num_outputs=count, dtype=TYPES[:count], layout=LAYOUTS[:count])
    mask = _mask_pixels(inputs[1], inputs[3])
    if ranges is None:
        image = _plain_image(inputs[0], inputs[2], spec, device)
        mask = fn.resize(place(mask, device), size=(size, size), interp_type=types.INTERP_NN)
    else:
        matrix, colour = inputs[4:6]
        image = _augmented_image(inputs[0], inputs[2], matrix, colour, spec, device)
        image = grain(image, colour, inputs[6:], ranges, device)
        mask = warp(place(mask, device), stretch(matrix, mask, size), size, types.INTERP_NN, device)
    return normalise(image, spec), mask


def input_count(ranges: Augmentation | None) -> int:
    """How many of the inputs the graph takes: none of the drawn ones, or all but the speckle, or all."""
    if ranges is None:
        return 4
    return 7 if ranges.speckle else 6


def _mask_pixels(path: DataNode, pixels: DataNode) -> DataNode:
    """(H, W, 1) UINT8 on the CPU, where PNG files are decoded anyway."""
    if pixels.shape()[0] > 1:  # noqa: SIM108 (DALI turns `if`, not the ternary, into a per-sample branch)
        mask = pixels
    else:
        mask = fn.decoders.image(fn.io.file.read(path), output_type=types.GRAY)
    return mask


def _plain_image(path: DataNode, pixels: DataNode, spec: Preprocessing, device: Device) -> DataNode:
    """(S, S, 3) FLOAT in [0, 255]."""
    if pixels.shape()[0] > 1:
        image = shrink(place(pixels, device), spec.image_size)
    else:
        image = decode(fn.io.file.read(path), spec, device)
    return image


def _augmented_image(
    path: DataNode, pixels: DataNode, matrix: DataNode, colour: DataNode, spec: Preprocessing, device: Device
) -> DataNode:
    """(S, S, 3) FLOAT in about [0, 255], warped by `matrix` and twisted in colour.

    Decoded pixels are at most about twice as large as the result and are warped straight down; a file is first
    shrunk with antialiasing, because warping a large image down would alias.
    """
    linear, size = types.INTERP_LINEAR, spec.image_size
    if pixels.shape()[0] > 1:
        image = twist(warp(place(pixels, device), stretch(matrix, pixels, size), size, linear, device), colour)
    else:
        warped = warp(decode(fn.io.file.read(path), spec, device), matrix, size, linear, device)
        image = twist(warped / FULL_SCALE, colour) * FULL_SCALE
    return image


def path_bytes(path: Path) -> NDArray[np.uint8]:
    """A path as `fn.io.file.read` takes it."""
    return np.frombuffer(os.fsencode(path), dtype=np.uint8)
