"""Draw what lies over the skin in photographs, to be laid over training images: hair, rulers and air bubbles.

Each picture is drawn once, at first use, and is the same in every process. A sample takes a part of it, turned and
tinted in another way each time.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

PICTURES = 24  # of each kind
MARGIN = 1.5  # side of a picture, in sides of the image that a part of it is laid over
FINE = 3  # lines are drawn this many times larger and then shrunk, because Pillow draws hard edges
OPAQUE = 255

Plane = NDArray[np.uint8]
Numbers = NDArray[np.float32]


class Ink:
    """Draw shapes with a cover and a shade, (0 to 255) each, on a square whose unit is the side of an image."""

    def __init__(self, size: int) -> None:
        self.unit = FINE * size
        side = int(MARGIN * self.unit)
        # Where nothing covers there is no light either: the light is the shade times the cover, which may be shrunk.
        self.planes = [Image.new("L", (side, side)) for _ in ("cover", "light")]
        self.drawings = [ImageDraw.Draw(plane) for plane in self.planes]

    def line(self, points: Numbers, width: float, cover: int, shade: int = OPAQUE) -> None:
        """Draw a line through (N, 2) points."""
        path = [(float(x), float(y)) for x, y in points * self.unit]
        for drawing, value in zip(self.drawings, (cover, cover * shade // OPAQUE), strict=True):
            drawing.line(path, fill=value, width=max(1, round(width * self.unit)), joint="curve")

    def ring(self, centre: Numbers, radius: float, width: float, cover: int, shade: int = OPAQUE) -> None:
        """Draw a ring whose outer radius is `radius`. A width of the radius fills it."""
        box = [float(value) for value in np.concatenate([centre - radius, centre + radius]) * self.unit]
        for drawing, value in zip(self.drawings, (cover, cover * shade // OPAQUE), strict=True):
            drawing.ellipse(box, outline=value, width=max(1, round(width * self.unit)))

    def finish(self) -> Plane:
        """Return cover and light, shrunk, as (side, side, 2)."""
        return np.stack([np.asarray(plane.reduce(FINE)) for plane in self.planes], axis=-1)


def draw_hair(rng: np.random.Generator, ink: Ink) -> None:
    """Draw a few to many hairs, in half of the pictures crossing near one point, which is taken for a lesion."""
    crossing = rng.random() < 0.5
    point = rng.uniform(0.3, 0.7, 2) * MARGIN
    # One head of hair has one thickness, to within a half.
    width = np.exp(rng.uniform(np.log(0.003), np.log(0.016)))
    for _ in range(int(np.exp(rng.uniform(np.log(3), np.log(40))))):
        angle, bend, length = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.7), rng.uniform(0.3, 1.3)
        along = np.linspace(0, 1, 20)
        steps = np.column_stack([np.cos(angle + bend * along), np.sin(angle + bend * along)]) * length / 20
        path = np.cumsum(steps, axis=0)
        # Any of its points may lie at the crossing, or its first one anywhere.
        start = point + rng.normal(0, 0.04, 2) - path[rng.integers(20)] if crossing else rng.uniform(0, MARGIN, 2)
        thickness, cover = width * rng.uniform(0.5, 1.5), int(rng.integers(110, OPAQUE + 1))
        ink.line((start + path).astype(np.float32), thickness, cover, int(rng.integers(150, OPAQUE + 1)))


def draw_ruler(rng: np.random.Generator, ink: Ink) -> None:
    """Draw the marks of a ruler along a slightly tilted line, every fifth longer, with or without the line itself."""
    tilt, pitch, length = rng.normal(0, 0.1), rng.uniform(0.025, 0.07), rng.uniform(0.02, 0.06)
    width, cover = rng.uniform(0.003, 0.01), int(rng.integers(140, OPAQUE + 1))
    along, across = np.array([np.cos(tilt), np.sin(tilt)]), np.array([-np.sin(tilt), np.cos(tilt)])
    first = np.array([0, rng.uniform(0.25, 0.75) * MARGIN])
    for number in range(int(1.2 * MARGIN / pitch)):
        foot = first + number * pitch * along
        tip = foot + length * (1.8 if number % 5 == 0 else 1) * across
        ink.line(np.stack([foot, tip]).astype(np.float32), width, cover)
    if rng.random() < 0.4:
        ink.line(np.stack([first, first + 2 * MARGIN * along]).astype(np.float32), width, cover)


def draw_bubbles(rng: np.random.Generator, ink: Ink) -> None:
    """Draw air bubbles under the glass: a dark edge, a bright rim, a veil inside and a highlight."""
    size = np.exp(rng.uniform(np.log(0.015), np.log(0.07)))
    for _ in range(int(rng.integers(2, 16))):
        centre, radius = rng.uniform(0, MARGIN, 2).astype(np.float32), size * rng.uniform(0.4, 1.6)
        ink.ring(centre, radius, radius, int(rng.integers(10, 50)))
        ink.ring(centre, radius, 0.25 * radius, int(rng.integers(60, 140)), 30)
        ink.ring(centre, 0.85 * radius, 0.15 * radius, int(rng.integers(60, 180)))
        # The light comes from one side.
        highlight = (centre + radius * rng.uniform(-0.4, 0.4, 2)).astype(np.float32)
        ink.ring(highlight, 0.2 * radius, 0.2 * radius, int(rng.integers(120, OPAQUE + 1)))


DRAWN: dict[str, Callable[[np.random.Generator, Ink], None]] = {
    "hair": draw_hair,
    "ruler": draw_ruler,
    "bubbles": draw_bubbles,
}
# Colours in [0, 1], of which one is drawn for each image: of hair from black to grey, of ink, of light.
TINTS: dict[str, Numbers] = {
    "hair": np.array(
        [(0.04, 0.03, 0.03), (0.12, 0.08, 0.06), (0.22, 0.15, 0.1), (0.45, 0.33, 0.22), (0.75, 0.72, 0.68)], np.float32
    ),
    "ruler": np.array([(0.05, 0.05, 0.06), (0.15, 0.2, 0.4), (0.95, 0.95, 0.95)], np.float32),
    "bubbles": np.array([(1, 1, 1), (0.95, 0.97, 1)], np.float32),
}


@lru_cache(maxsize=8 * PICTURES)
def picture(kind: str, number: int, size: int) -> Plane:
    """Draw picture `number` of a kind for images of `size` px: cover and light (side, side, 2)."""
    ink = Ink(size)
    DRAWN[kind](np.random.default_rng((number, list(DRAWN).index(kind))), ink)
    return ink.finish()


def cut_part(rng: np.random.Generator, whole: Plane, size: int) -> Plane:
    """Cut a (size, size, 2) part out of a picture, at a random place, turned by a random quarter and mirrored."""
    row, column = rng.integers(len(whole) - size + 1, size=2)
    part = np.rot90(whole[row : row + size, column : column + size], int(rng.integers(4)))
    return part[:, ::-1] if rng.random() < 0.5 else part


def draw_overlay(rng: np.random.Generator, chances: dict[str, float], size: int) -> Plane:
    """Draw what lies over one image.

    Args:
        rng: source of random numbers.
        chances: probability of each kind of `DRAWN`.
        size: side of the image in pixels.

    Returns:
        (size, size, 4) with colour times cover, then cover: image * (1 - cover / 255) + colour lays it over an image.
    """
    clear, colour = np.ones((size, size, 1), np.float32), np.zeros((size, size, 3), np.float32)
    for kind, chance in chances.items():
        if rng.random() >= chance:
            continue
        part = cut_part(rng, picture(kind, int(rng.integers(PICTURES)), size), size) / np.float32(OPAQUE)
        tint, strength = TINTS[kind][rng.integers(len(TINTS[kind]))], np.float32(rng.uniform(0.6, 1))
        left = 1 - strength * part[..., :1]
        colour = colour * left + strength * part[..., 1:] * tint
        clear = clear * left
    overlay: Plane = np.rint(OPAQUE * np.concatenate([colour, 1 - clear], axis=-1)).astype(np.uint8)
    return overlay
