"""Transform the kernels of convolutions to Winograd's form."""

import numpy as np
from numpy.typing import NDArray

PANEL = 16  # of `convolution.cpp`: output channels whose weights lie together
# The interpolation points of F(4x4, 3x3). The sixth is infinity.
_POINTS = np.array([0, 1, -1, 2, -2]) / np.sqrt([1, 2, 2, 2, 2])


def frequencies(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Transform a 3x3 kernel (C_out, C_in, 3, 3) to (36, C_out / 16, C_in, 16), the order that it is read in."""
    c_out, c_in = weight.shape[:2]
    matrix = kernel_matrix()
    # In float64 and rounded once, because the matrix' fractions are not exact.
    both_axes = np.kron(matrix, matrix) @ weight.astype(np.float64).reshape(c_out * c_in, 9).T
    panels = both_axes.astype(np.float32).reshape(len(both_axes), c_out // PANEL, PANEL, c_in)
    return np.ascontiguousarray(panels.transpose(0, 1, 3, 2))


def kernel_matrix() -> NDArray[np.float64]:
    """Return G of one axis, (6, 3): the powers of each point, over its distances to the other points."""
    rows = [[point**power for power in range(3)] / np.prod(point - _POINTS[point != _POINTS]) for point in _POINTS]
    return np.array([*rows, [0, 0, 1]])
