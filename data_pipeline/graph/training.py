"""Define the DALI graph of training, which augments between decoding and normalisation."""

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

# The inputs: path of the image, path of the mask, pixels of the image, pixels of the mask (NO_PIXELS where the file is
# to be read), then what is drawn: matrix, colour and speckle.
TYPES = [types.UINT8] * 4 + [types.FLOAT] * 3
LAYOUTS = ["", "", "HWC", "HWC", "", "", "HWC"]
NO_PIXELS: NDArray[np.uint8] = np.zeros((1, 1, 1), np.uint8)  # an input cannot be absent, so this stands for none

Columns = tuple[list[NDArray[np.generic]], ...]


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def training_pipeline(
    columns: Iterable[Columns], spec: Preprocessing, ranges: Augmentation | None, device: Device
) -> tuple[DataNode, DataNode]:
    """Build the graph from the inputs of a batch to its images and masks.

    Args:
        columns: for each batch, a list of samples for each of the inputs listed above.
        spec: size and normalisation of the images.
        ranges: of the augmentation. None leaves it out: the image is then what serving computes, and the mask is
            resized by nearest neighbour.
        device: where the images and masks are computed.

    Returns:
        Images (3, S, S) FLOAT and masks (S, S, 1) UINT8.
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
        # Warped from its full size in one step, so the mask is not sampled twice.
        mask = warp(place(mask, device), stretch(matrix, mask, size), size, types.INTERP_NN, device)
    return normalise(image, spec), mask


def input_count(ranges: Augmentation | None) -> int:
    """Return how many of the inputs the graph takes: 4 that are read, 2 that are drawn, and the speckle."""
    if ranges is None:
        return 4
    return 7 if ranges.speckle else 6


def _mask_pixels(path: DataNode, pixels: DataNode) -> DataNode:
    """Return the mask as (H, W, 1) UINT8 on the CPU, where DALI decodes PNG files in any case."""
    if pixels.shape()[0] > 1:  # noqa: SIM108 (DALI turns `if`, not the ternary, into a per-sample branch)
        mask = pixels
    else:
        mask = fn.decoders.image(fn.io.file.read(path), output_type=types.GRAY)
    return mask


def _plain_image(path: DataNode, pixels: DataNode, spec: Preprocessing, device: Device) -> DataNode:
    """Return the image without augmentation, (S, S, 3) FLOAT in [0, 255]."""
    if pixels.shape()[0] > 1:
        image = shrink(place(pixels, device), spec.image_size)
    else:
        image = decode(fn.io.file.read(path), spec, device)
    return image


def _augmented_image(
    path: DataNode, pixels: DataNode, matrix: DataNode, colour: DataNode, spec: Preprocessing, device: Device
) -> DataNode:
    """Return the image warped by `matrix` and twisted in colour, (S, S, 3) FLOAT in about [0, 255]."""
    linear, size = types.INTERP_LINEAR, spec.image_size
    if pixels.shape()[0] > 1:
        # Decoded pixels are at most about twice as large as the result, so they are warped in one step.
        image = twist(warp(place(pixels, device), stretch(matrix, pixels, size), size, linear, device), colour)
    else:
        # A file may be of any size, and a warp does not antialias: it is shrunk first.
        warped = warp(decode(fn.io.file.read(path), spec, device), matrix, size, linear, device)
        image = twist(warped / FULL_SCALE, colour) * FULL_SCALE
    return image


def path_bytes(path: Path) -> NDArray[np.uint8]:
    """Encode a path as bytes, as `fn.io.file.read` takes it."""
    return np.frombuffer(os.fsencode(path), dtype=np.uint8)
