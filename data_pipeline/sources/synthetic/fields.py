"""Draw the random fields of the generators.

All are float64: after rounding to 8 bits, differences in the last digits leave the files the same on every machine.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[Any]  # float64


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Field:
    """Draw (H, W) noise of about unit variance whose features are about `cell` pixels wide."""
    # Cubic B-splines with random coefficients: smooth, and a product of two small matrices.
    rows, columns = (_spline_basis(length, cell) for length in shape)
    field: Field = rows @ rng.standard_normal((rows.shape[1], columns.shape[1])) @ columns.T
    return field / 0.48  # the standard deviation that the splines leave of unit coefficients


def fractal_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int) -> Field:
    """Sum up `smooth_noise` of cell, cell / 2, cell / 4 and so on, with amplitudes 1, 1/2, 1/4 and so on."""
    return sum(
        (smooth_noise(rng, shape, cell / 2**octave) / 2**octave for octave in range(octaves)), start=np.zeros(shape)
    )


def curve(rng: np.random.Generator, length: int, cell: float) -> Field:
    """Draw a smooth random curve of (length,) with about unit variance."""
    basis = _spline_basis(length, cell)
    values: Field = basis @ rng.standard_normal(basis.shape[1]) / 0.69
    return values


def _spline_basis(length: int, cell: float) -> Field:
    """Compute the (length, knots) weights of uniform cubic B-splines with a knot every `cell` pixels."""
    # One knot before the first pixel and one after the last, so that the splines sum to 1 up to the edges.
    knots = np.arange(-1, int(np.ceil(length / cell)) + 2)
    distance = np.abs(np.arange(length)[:, None] / cell - knots)
    # The two pieces of the cubic B-spline: up to one knot away, and from one to two.
    near = 2 / 3 + distance * distance * (distance / 2 - 1)
    tail = np.clip(2 - distance, 0, None)
    return np.where(distance < 1, near, tail * tail * tail / 6)


def blur(field: Field, sigma: float) -> Field:
    """Blur (H, W) with a Gaussian of `sigma` pixels, and repeat the edges outwards."""
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    # A Gaussian is separable: one axis after the other costs 2 n instead of n * n products a pixel.
    for axis in (0, 1):
        padded = np.pad(field, [(radius, radius) if axis == i else (0, 0) for i in (0, 1)], mode="edge")
        size = field.shape[axis]
        field = sum(
            (weight * padded.take(range(i, i + size), axis) for i, weight in enumerate(kernel)),
            start=np.zeros(field.shape),
        )
    return field


def step(field: Field, width: float) -> Field:
    """Map a field to 0 where it is negative and 1 where it is positive, softly over about `width`."""
    # Clipped, because the exponential of a large number overflows.
    return 1 / (1 + np.exp(np.clip(-field / width, -40, 40)))


def to_bytes(field: Field) -> NDArray[np.uint8]:
    """Convert values in [0, 1] to uint8, clipped and rounded."""
    values: NDArray[np.uint8] = np.rint(np.clip(field, 0, 1) * 255).astype(np.uint8)
    return values
