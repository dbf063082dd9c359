"""Random fields the generators draw with: float64, so that rounding to 8 bits gives the same files on every machine."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[Any]  # float64


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Field:
    """(H, W) noise of about unit variance whose features are about `cell` pixels wide: random cubic B-splines."""
    rows, columns = (_spline_basis(length, cell) for length in shape)
    field: Field = rows @ rng.standard_normal((rows.shape[1], columns.shape[1])) @ columns.T
    return field / 0.48


def fractal_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int) -> Field:
    """Sum of `smooth_noise` at cell, cell / 2, cell / 4 ... with amplitude 1, 1/2, 1/4 ..."""
    return sum(
        (smooth_noise(rng, shape, cell / 2**octave) / 2**octave for octave in range(octaves)), start=np.zeros(shape)
    )


def curve(rng: np.random.Generator, length: int, cell: float) -> Field:
    """(length,) smooth random curve of about unit variance."""
    basis = _spline_basis(length, cell)
    values: Field = basis @ rng.standard_normal(basis.shape[1]) / 0.69
    return values


def _spline_basis(length: int, cell: float) -> Field:
    """(length, knots) weights of uniform cubic B-splines with a knot every `cell` pixels."""
    knots = np.arange(-1, int(np.ceil(length / cell)) + 2)
    distance = np.abs(np.arange(length)[:, None] / cell - knots)
    near = 2 / 3 + distance * distance * (distance / 2 - 1)
    tail = np.clip(2 - distance, 0, None)
    return np.where(distance < 1, near, tail * tail * tail / 6)


def blur(field: Field, sigma: float) -> Field:
    """Gaussian blur of (H, W), edges repeated."""
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(field, [(radius, radius) if axis == i else (0, 0) for i in (0, 1)], mode="edge")
        size = field.shape[axis]
        field = sum(
            (weight * padded.take(range(i, i + size), axis) for i, weight in enumerate(kernel)),
            start=np.zeros(field.shape),
        )
    return field


def step(field: Field, width: float) -> Field:
    """0 to 1 across the zero of `field`, over about `width`."""
    return 1 / (1 + np.exp(np.clip(-field / width, -40, 40)))


def to_bytes(field: Field) -> NDArray[np.uint8]:
    """Values in [0, 1] -> uint8, clipped and rounded."""
    values: NDArray[np.uint8] = np.rint(np.clip(field, 0, 1) * 255).astype(np.uint8)
    return values
