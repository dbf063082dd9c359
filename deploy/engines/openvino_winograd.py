"""Rewrite 3x3 convolutions of an OpenVINO graph as matrix products with a quarter of the multiplications.

Winograd's form F(4x4, 3x3) (arXiv 1509.09308): a map is cut into tiles of 4x4 outputs, and each tile is
`A^T [(G w G^T) * (B^T x B)] A`. That is 36 products for each pair of channels where the plain sum has 144.

OpenVINO's own convolutions on a CPU do not use it, so the graph itself does. B^T and A^T for all tiles of an axis are
one dense matrix, which is a cheap product on small maps. Each of the 36 frequencies is a matrix product over the
channels, whose weights the plugin packs when it loads the file.

The result is exact up to rounding. Measured errors are about ten times those of the plain float32 convolution, 1e-5 of
its output.
"""

import time
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

from deploy.engines.base import Progress

LARGEST_SIDE = 64  # beyond it the dense transforms cost more than the products save
WORTHWHILE = 0.9  # of the plain convolution's time: a smaller gain does not pay for weights of four times the size
ROUNDS = 7
CPU_SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}

Matrix = NDArray[np.float64]

# The matrices of F(4x4, 3x3) for one axis, with the interpolation points 0, 1, -1, 2, -2 and infinity.
TILE, KERNEL = 4, 3
FREQUENCIES = TILE + KERNEL - 1
INPUT = np.array(  # B^T
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float64,
)
WEIGHT = np.array(  # G
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float64,
)
OUTPUT = np.array(  # A^T
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float64
)


class Shape(NamedTuple):
    """Describe a 3x3 convolution with stride 1 and padding 1.

    c_out: output channels.
    c_in: input channels.
    side: of its square maps, in pixels.
    """

    c_out: int
    c_in: int
    side: int


def use_winograd(core: openvino.Core, model: openvino.Model, threads: int, progress: Progress) -> int:
    """Rewrite, in place, the convolutions that are faster in Winograd's form here, and return their number."""
    candidates = list(_candidates(model))
    # The blocks of a stage repeat one shape, which is timed once.
    shapes = list(dict.fromkeys(shape for _, shape in candidates))
    faster = set()
    for index, shape in enumerate(shapes):
        progress(f"timing 3x3 convolutions of {shape.c_in} channels at {shape.side} px", index / len(shapes))
        if winograd_is_faster(core, shape, threads):
            faster.add(shape)
    chosen = [(node, shape) for node, shape in candidates if shape in faster]
    for node, shape in chosen:
        rewritten = convolution(node.input_value(0), _weight(node), shape.side)
        node.output(0).replace(rewritten)
    return len(chosen)


def _candidates(model: openvino.Model) -> Iterator[tuple[openvino.Node, Shape]]:
    """Yield the convolutions that have a Winograd form here, in the order of the graph."""
    plain = {"strides": [1, 1], "dilations": [1, 1], "pads_begin": [1, 1], "pads_end": [1, 1]}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution":
            continue
        attributes = node.get_attributes()
        c_out, c_in, *kernel = node.input_value(1).get_shape()
        # The batch is dynamic, so only a partial shape is known.
        side = node.input_value(0).get_partial_shape()[2].get_length()
        if kernel == [3, 3] and side <= LARGEST_SIDE and all(list(attributes[k]) == v for k, v in plain.items()):
            yield node, Shape(c_out, c_in, side)


def _weight(node: openvino.Node) -> NDArray[np.float32]:
    return np.asarray(node.input_value(1).get_node().data)


def winograd_is_faster(core: openvino.Core, shape: Shape, threads: int) -> bool:
    """Compare the median times of both forms, in alternating rounds on random values of one image."""
    weight = np.random.default_rng(0).standard_normal((shape.c_out, shape.c_in, 3, 3), np.float32)
    image = np.random.default_rng(1).standard_normal((1, shape.c_in, shape.side, shape.side), np.float32)
    forms = [_compiled(core, shape, weight, threads, winograd=winograd) for winograd in (False, True)]
    times: list[list[float]] = [[], []]
    for _ in range(ROUNDS + 1):
        for request, measured in zip(forms, times, strict=True):
            start = time.perf_counter()
            request.infer([image])
            measured.append(time.perf_counter() - start)
    # The first round only warms up.
    plain, transformed = (median(measured[1:]) for measured in times)
    return transformed < WORTHWHILE * plain


def _compiled(
    core: openvino.Core, shape: Shape, weight: NDArray[np.float32], threads: int, *, winograd: bool
) -> openvino.InferRequest:
    """Compile one form of a convolution, with a ReLU behind it as most of the network's convolutions have."""
    image = ops.parameter([1, shape.c_in, shape.side, shape.side], np.float32)
    if winograd:
        out = convolution(image.output(0), weight, shape.side)
    else:
        out = ops.convolution(image, ops.constant(weight), [1, 1], [1, 1], [1, 1], [1, 1]).output(0)
    model = openvino.Model([ops.relu(out)], [image])
    settings = {**CPU_SETTINGS, "INFERENCE_NUM_THREADS": threads}
    return core.compile_model(model, "CPU", settings).create_infer_request()


def convolution(image: openvino.Output, weight: NDArray[np.float32], side: int) -> openvino.Output:
    """Make the nodes of a 3x3 convolution with stride 1 and padding 1 in Winograd's form.

    Args:
        image: (B, C_in, side, side).
        weight: (C_out, C_in, 3, 3).
        side: of the map in pixels.

    Returns:
        (B, C_out, side, side).
    """
    c_out, c_in = weight.shape[:2]
    tiles, count = -(-side // TILE), FREQUENCIES**2
    # Transformed in float64 and rounded once, because the matrices' fractions are not exact.
    spectrum = np.einsum("ik,ockl,jl->ijoc", WEIGHT, weight.astype(np.float64), WEIGHT).reshape(count, c_out, c_in)
    forward, back = _constant(input_matrix(side)), _constant(output_matrix(side))

    # Channels last, so that the transform of an axis is a product from the left with no transpose around it.
    x = ops.transpose(image, _shape(0, 2, 3, 1))
    x = ops.matmul(forward, _reshape(x, -1, side, side * c_in), False, False)
    x = ops.matmul(forward, _reshape(x, -1, side, c_in), False, False)
    x = _reshape(x, -1, FREQUENCIES, tiles, FREQUENCIES, tiles * c_in)
    x = _reshape(ops.transpose(x, _shape(1, 3, 0, 2, 4)), count, -1, c_in)  # [frequency, image and tile, C_in]

    # A product with a constant weight for each frequency: those are what the plugin packs.
    parts = ops.split(x, ops.constant(0), count).outputs()
    products = [ops.matmul(part, _constant(matrix), False, True) for part, matrix in zip(parts, spectrum, strict=True)]

    # The same steps backwards, from frequencies to pixels.
    x = _reshape(ops.concat(products, 0), FREQUENCIES, FREQUENCIES, -1, tiles, tiles * c_out)
    x = _reshape(ops.transpose(x, _shape(2, 0, 3, 1, 4)), -1, FREQUENCIES * tiles, c_out)
    x = ops.matmul(back, x, False, False)
    x = ops.matmul(back, _reshape(x, -1, FREQUENCIES * tiles, side * c_out), False, False)
    return ops.transpose(_reshape(x, -1, side, side, c_out), _shape(0, 3, 1, 2)).output(0)


def input_matrix(side: int) -> Matrix:
    """Return B^T of every tile of one axis with a padding of 1, (frequencies * tiles, side)."""
    tiles = -(-side // TILE)
    # Wide enough for the padding on the left and for what the last tile reads on the right.
    whole = np.zeros((FREQUENCIES, tiles, side + 2 + TILE))
    for tile in range(tiles):
        whole[:, tile, tile * TILE : tile * TILE + FREQUENCIES] = INPUT
    # What lies outside the map is zero, so its columns are dropped.
    return whole[:, :, 1 : side + 1].reshape(FREQUENCIES * tiles, side)


def output_matrix(side: int) -> Matrix:
    """Return A^T of every tile of one axis, (side, frequencies * tiles)."""
    tiles = -(-side // TILE)
    whole = np.zeros((tiles, TILE, FREQUENCIES, tiles))
    for tile in range(tiles):
        whole[tile, :, :, tile] = OUTPUT
    # The last tile may reach beyond the map.
    return whole.reshape(tiles * TILE, FREQUENCIES * tiles)[:side]


def _constant(values: NDArray[np.float64]) -> openvino.Node:
    return ops.constant(values.astype(np.float32))


def _shape(*values: int) -> openvino.Node:
    return ops.constant(np.array(values, np.int64))


def _reshape(value: openvino.Node, *shape: int) -> openvino.Node:
    return ops.reshape(value, _shape(*shape), special_zero=False)
