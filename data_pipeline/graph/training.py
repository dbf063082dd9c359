"""Define the DALI graph of training: shared preprocessing, with random augmentation before normalisation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.math as math
import nvidia.dali.types as types
from numpy.typing import NDArray
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import pipeline_def

from data_pipeline.graph import FULL_SCALE, Device, decode, normalise, place, shrink
from data_pipeline.spec import Preprocessing

# The graph's inputs: file of the image, file of the mask, pixels of the image, pixels of the mask (NO_FILE or NO_PIXELS
# where the other one is used), then what is drawn: matrix, colour and speckle.
TYPES = [types.UINT8] * 4 + [types.FLOAT] * 3
LAYOUTS = ["", "", "HWC", "HWC", "", "", "HWC"]
# An input cannot be absent, so these stand for none.
NO_PIXELS: NDArray[np.uint8] = np.zeros((1, 1, 1), np.uint8)
NO_FILE: NDArray[np.uint8] = np.zeros(1, np.uint8)

Columns = tuple[list[NDArray[np.generic]], ...]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Hold the ranges from which the parameters are drawn uniformly.

    flip: probability of a horizontal flip.
    rotation: largest angle in degrees, to either side.
    scale: smallest and largest factor of magnification.
    translation: largest shift as a share of the image's side.
    brightness: largest relative change.
    contrast: largest relative change.
    saturation: largest relative change.
    hue: largest turn in degrees.
    gamma: largest relative change of the exponent. 0 leaves it out of the graph.
    speckle: largest standard deviation of multiplicative noise. 0 leaves it out of the graph.
    """

    flip: float = 0.5
    rotation: float = 25.0
    scale: tuple[float, float] = (0.85, 1.2)
    translation: float = 0.06
    brightness: float = 0.12
    contrast: float = 0.15
    saturation: float = 0.0
    hue: float = 0.0
    gamma: float = 0.0
    speckle: float = 0.0


COLOUR = Augmentation(saturation=0.15, hue=6.0)
# Grey images have no hue to turn. OCT scans differ in tone and speckle from device to device.
GREY = Augmentation(gamma=0.2, speckle=0.12)


def draw_parameters(ranges: Augmentation, size: int, key: tuple[int, int, int]) -> tuple[FloatArray, ...]:
    """Draw the parameters of one sample.

    Args:
        ranges: the ranges to draw from.
        size: side of the network's input in pixels.
        key: (seed, epoch, index of the sample).

    Returns:
        The matrix of `draw_matrix`, the factors of `draw_colour` and, if `ranges` has speckle, that of `draw_speckle`.
    """
    rng = np.random.default_rng(key)
    drawn = draw_matrix(rng, ranges, size), draw_colour(rng, ranges)
    return (*drawn, draw_speckle(rng, ranges, size)) if ranges.speckle else drawn


def draw_matrix(rng: np.random.Generator, ranges: Augmentation, size: int) -> FloatArray:
    """Draw a flip, rotation, scale and shift about the centre of a (size, size) square.

    Returns:
        (3, 3) matrix from output to input pixel coordinates (x, y, 1), the direction in which a warp reads.
    """
    angle = np.deg2rad(rng.uniform(-ranges.rotation, ranges.rotation))
    # Inverted, because the matrix leads from the output to the input.
    zoom = 1.0 / rng.uniform(*ranges.scale)
    mirror = -1.0 if rng.random() < ranges.flip else 1.0
    shift = rng.uniform(-ranges.translation, ranges.translation, 2) * size
    linear = zoom * np.array([[mirror * np.cos(angle), -np.sin(angle)], [mirror * np.sin(angle), np.cos(angle)]])
    # The centre of the output lands on the centre of the input plus the shift.
    centre = np.full(2, size / 2)
    matrix = np.eye(3, dtype=np.float32)
    matrix[:2] = np.column_stack([linear, centre + shift - linear @ centre])
    return matrix


def draw_colour(rng: np.random.Generator, ranges: Augmentation) -> FloatArray:
    """Draw the changes of colour.

    Returns:
        (5,) brightness, contrast, saturation and gamma as factors around 1, and the turn of the hue in degrees.
    """
    spread = np.array([ranges.brightness, ranges.contrast, ranges.saturation, ranges.gamma, ranges.hue])
    # All five are drawn whatever the ranges, so the random numbers that follow do not depend on which are in use.
    factors: FloatArray = (np.array([1, 1, 1, 1, 0]) + spread * rng.uniform(-1, 1, 5)).astype(np.float32)
    return factors


def draw_speckle(rng: np.random.Generator, ranges: Augmentation, size: int) -> FloatArray:
    """Draw (size, size, 1) multiplicative noise around 1, whose strength is drawn for each image."""
    strength = np.float32(rng.uniform(0, ranges.speckle))
    return np.float32(1) + strength * rng.standard_normal((size, size, 1), dtype=np.float32)


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


def grain(
    image: DataNode, colour: DataNode, speckle: Sequence[DataNode], ranges: Augmentation, device: Device
) -> DataNode:
    """Multiply an image by speckle and apply gamma, where `ranges` has them.

    Args:
        image: (S, S, 3) FLOAT in [0, 255].
        colour: (5,) factors of `draw_colour`.
        speckle: the noise of `draw_speckle`, or nothing.
        ranges: which of the two to apply.
        device: where `image` lies.
    """
    if speckle:
        image = image * place(speckle[0], device)
    if ranges.gamma:
        # Clamped first: a power of a negative number is NaN, and contrast may have gone below 0.
        image = math.clamp(image / FULL_SCALE, 0.0, 1.0) ** place(colour[3], device) * FULL_SCALE
    return image


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def training_pipeline(
    columns: Iterable[Columns], spec: Preprocessing, ranges: Augmentation | None, device: Device
) -> tuple[DataNode, DataNode]:
    """Build the graph from the inputs of a batch to its images and masks.

    Args:
        columns: for each batch, a list of samples for each of the inputs that `TYPES` describes.
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


def as_input(file: bytes) -> NDArray[np.uint8]:
    """Return the bytes of a file as the graphs take them."""
    return np.frombuffer(file, dtype=np.uint8)
