"""Define the DALI graph of training: shared preprocessing, with random augmentation before normalisation."""

from collections.abc import Iterable

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.math as math
import nvidia.dali.types as types
from numpy.typing import NDArray
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import pipeline_def

from data_pipeline.graph import FULL_SCALE, Device, decode, normalise, place, shrink
from data_pipeline.graph.augmentation import Augmentation
from data_pipeline.spec import Preprocessing

# The graph's inputs with their types and layouts. First what is read: the file of the image and of the mask, the pixels
# of the image and of the mask (NO_FILE or NO_PIXELS where the other one is used). Then what is drawn.
READ = {"file": (types.UINT8, ""), "mask_file": (types.UINT8, ""), "pixels": (types.UINT8, "HWC")}
READ |= {"mask_pixels": (types.UINT8, "HWC")}
DRAWN = {"matrix": (types.FLOAT, ""), "colour": (types.FLOAT, ""), "speckle": (types.FLOAT, "HWC")}
DRAWN |= {"blur": (types.FLOAT, ""), "overlay": (types.UINT8, "HWC")}
# An input cannot be absent, so these stand for none.
NO_PIXELS: NDArray[np.uint8] = np.zeros((1, 1, 1), np.uint8)
NO_FILE: NDArray[np.uint8] = np.zeros(1, np.uint8)

Columns = tuple[list[NDArray[np.generic]], ...]
Drawn = dict[str, DataNode]  # the drawn inputs of the graph by name


def input_names(ranges: Augmentation | None) -> list[str]:
    """Return the names of the graph's inputs in their order: those that are read, then those that are drawn."""
    if ranges is None:
        return list(READ)
    left_out = {"speckle": not ranges.speckle, "blur": not ranges.blur, "overlay": not ranges.overlays}
    return [*READ, *(name for name in DRAWN if not left_out.get(name))]


def stretch(matrix: DataNode, pixels: DataNode, size: int) -> DataNode:
    """Rescale a matrix that maps into a (size, size) square, so that it maps into an image of any size and shape.

    Args:
        matrix: (3, 3) matrix of `draw_matrix`.
        pixels: (H, W, C) image that the result maps into.
        size: side of the square.
    """
    height_width = fn.cast(pixels.shape()[0:2], dtype=types.FLOAT) / float(size)
    # The first row of the matrix gives x, so it takes the width, and the second row takes the height.
    rows = fn.stack(height_width[1], height_width[0], types.Constant(1.0))
    return matrix * fn.reshape(rows, shape=[3, 1])


def warp(
    pixels: DataNode, matrix: DataNode, size: int, interpolation: types.DALIInterpType, device: Device
) -> DataNode:
    """Warp (H, W, C) on `device` to (size, size, C) of the same type, with 0 outside of the image.

    Args:
        pixels: the image or mask.
        matrix: (3, 3) matrix from output to input pixel coordinates.
        size: side of the result.
        interpolation: linear for images, nearest for masks.
        device: where `pixels` lie.
    """
    # A perspective warp whose last row is (0, 0, 1), because DALI's CPU warp_affine takes 4 to 5 times as long
    # (4.7 ms against 0.8 ms for 224 x 224 x 3 bytes, linear).
    return fn.experimental.warp_perspective(
        pixels, place(matrix, device), size=(size, size), fill_value=[0.0], interp_type=interpolation
    )


def twist(image: DataNode, colour: DataNode) -> DataNode:
    """Change brightness, contrast, saturation and hue of an image.

    Args:
        image: (S, S, 3), UINT8 or FLOAT in [0, 1]. DALI takes the middle grey of the contrast from the type.
        colour: (5,) factors of `draw_colour`.

    Returns:
        (S, S, 3) FLOAT on the scale of `image`.
    """
    return fn.color_twist(
        image, brightness=colour[0], contrast=colour[1], saturation=colour[2], hue=colour[4], dtype=types.FLOAT
    )


def cover(image: DataNode, overlay: DataNode) -> DataNode:
    """Lay an overlay of `graph.artefacts.draw_overlay` over an image (S, S, 3) FLOAT in [0, 255]."""
    return image * (1.0 - overlay[:, :, 3:4] / FULL_SCALE) + overlay[:, :, 0:3]


def soften(image: DataNode, blur: DataNode, ranges: Augmentation, size: int) -> DataNode:
    """Blur (S, S, 3) FLOAT by a Gaussian of the standard deviation that `draw_blur` drew."""
    # One window for all samples, wide enough for the largest deviation.
    reach = int(np.ceil(3 * ranges.blur * size))
    return fn.gaussian_blur(image, sigma=blur, window_size=2 * reach + 1, dtype=types.FLOAT)


def grain(image: DataNode, drawn: Drawn, ranges: Augmentation, device: Device) -> DataNode:
    """Multiply an image by speckle and apply gamma, where `ranges` has them.

    Args:
        image: (S, S, 3) FLOAT in [0, 255].
        drawn: has `colour`, and `speckle` if that is to be applied.
        ranges: whether to apply gamma.
        device: where `image` lies.
    """
    if ranges.speckle:
        image = image * place(drawn["speckle"], device)
    if ranges.gamma:
        # Clamped first: a power of a negative number is NaN, and contrast may have gone below 0.
        gamma = place(drawn["colour"][3], device)
        image = math.clamp(image / FULL_SCALE, 0.0, 1.0) ** gamma * FULL_SCALE
    return image


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def training_pipeline(
    columns: Iterable[Columns], spec: Preprocessing, ranges: Augmentation | None, device: Device
) -> tuple[DataNode, DataNode]:
    """Build the graph from the inputs of a batch to its images and masks.

    Args:
        columns: for each batch, a list of samples for each input of `input_names`.
        spec: size and normalisation of the images.
        ranges: of the augmentation. None leaves it out: the image is then what serving computes, and the mask is
            resized by nearest neighbour.
        device: where the images and masks are computed.

    Returns:
        Images (3, S, S) FLOAT and masks (S, S, 1) UINT8.
    """
    size, inputs = spec.image_size, _inputs(columns, ranges)
    mask = _mask_pixels(inputs["mask_file"], inputs["mask_pixels"])
    if ranges is None:
        image = _plain_image(inputs["file"], inputs["pixels"], spec, device)
        mask = fn.resize(place(mask, device), size=(size, size), interp_type=types.INTERP_NN)
    else:
        matrix = inputs["matrix"]
        image = _augmented_image(inputs["file"], inputs["pixels"], matrix, inputs["colour"], spec, device)
        # In the order of a camera: what lies on the skin, then the optics, then the sensor.
        if ranges.overlays:
            image = cover(image, place(inputs["overlay"], device))
        if ranges.blur:
            image = soften(image, inputs["blur"], ranges, size)
        image = grain(image, inputs, ranges, device)
        # Warped from its full size in one step, so the mask is not sampled twice.
        mask = warp(place(mask, device), stretch(matrix, mask, size), size, types.INTERP_NN, device)
    return normalise(image, spec), mask


def _inputs(columns: Iterable[Columns], ranges: Augmentation | None) -> Drawn:
    """Return the graph's inputs by name."""
    names = input_names(ranges)
    dtypes, layouts = ([(READ | DRAWN)[name][part] for name in names] for part in (0, 1))
    inputs = fn.external_source(columns, num_outputs=len(names), dtype=dtypes, layout=layouts)
    return {name: inputs[number] for number, name in enumerate(names)}


def _mask_pixels(file: DataNode, pixels: DataNode) -> DataNode:
    """Return the mask as (H, W, 1) UINT8 on the CPU, where DALI decodes PNG files in any case."""
    if pixels.shape()[0] > 1:  # noqa: SIM108 (DALI turns `if`, not the ternary, into a per-sample branch)
        mask = pixels
    else:
        mask = fn.decoders.image(file, output_type=types.GRAY)
    return mask


def _plain_image(file: DataNode, pixels: DataNode, spec: Preprocessing, device: Device) -> DataNode:
    """Return the image without augmentation, (S, S, 3) FLOAT in [0, 255]."""
    if pixels.shape()[0] > 1:  # noqa: SIM108 (as above)
        image = shrink(place(pixels, device), spec.image_size)
    else:
        image = decode(file, spec, device)
    return image


def _augmented_image(
    file: DataNode, pixels: DataNode, matrix: DataNode, colour: DataNode, spec: Preprocessing, device: Device
) -> DataNode:
    """Return the image warped by `matrix` and twisted in colour, (S, S, 3) FLOAT in about [0, 255]."""
    linear, size = types.INTERP_LINEAR, spec.image_size
    if pixels.shape()[0] > 1:
        # Decoded pixels are at most about twice as large as the result, so they are warped in one step.
        image = twist(warp(place(pixels, device), stretch(matrix, pixels, size), size, linear, device), colour)
    else:
        # A file may be of any size, and a warp does not antialias: it is shrunk first.
        warped = warp(decode(file, spec, device), matrix, size, linear, device)
        image = twist(warped / FULL_SCALE, colour) * FULL_SCALE
    return image
