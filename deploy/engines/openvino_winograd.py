"""Write a 3x3 convolution of an OpenVINO graph as matrix products with a quarter of the multiplications.

Winograd's form F(4x4, 3x3) (arXiv 1509.09308): a map is cut into tiles of 4x4 outputs, and each tile is
`A^T [(G w G^T) * (B^T x B)] A`. That is 36 products for each pair of channels where the plain sum has 144.

OpenVINO's own convolutions on a CPU do not use it, so the graph itself does. B^T and A^T for all tiles of an axis are
one dense matrix, which is a cheap product on small maps. Each of the 36 frequencies is a matrix product over the
channels, whose weights the plugin packs when it loads the file.

The result is exact up to rounding. Measured errors are about ten times those of the plain float32 convolution, 1e-5 of
its output.
"""

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops

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
