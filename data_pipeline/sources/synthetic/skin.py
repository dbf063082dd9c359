"""Generate dermoscopy-like images of a lesion on skin.

The class of the lesion shows in its border and texture rather than in its colour.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data_pipeline.sources.synthetic.fields import Field, blur, fractal_noise, smooth_noise, step, to_bytes

SEG_CLASSES = ("background", "lesion")
LABELS = ("melanoma", "seborrheic_keratosis", "nevus")
SUFFIX = ".jpg"
SIZES = ((400, 400), (360, 480), (427, 640), (420, 560), (480, 512))  # (height, width)
# Colours of skin from light to dark, and of lesions, as RGB in [0, 1].
TONES = np.array([[0.93, 0.78, 0.70], [0.87, 0.68, 0.58], [0.78, 0.58, 0.45], [0.60, 0.42, 0.31]])
PIGMENTS = np.array(
    [[0.62, 0.42, 0.28], [0.42, 0.26, 0.17], [0.28, 0.18, 0.13], [0.66, 0.40, 0.36], [0.45, 0.40, 0.42]]
)


@dataclass(frozen=True, kw_only=True)
class Habit:
    """Describe how a class looks.

    irregularity: unevenness of the border, relative to the radius.
    edge: softness of the border, relative to the radius.
    network: probability of a pigment network.
    distortion: bend of the network in radians.
    globules: probability of dark globules.
    cysts: probability of pale cysts.
    ridges: probability of ridges.
    regression: probability of pale areas.
    streaks: probability of streaks at the border.
    patches: probability of patches of a second pigment.
    pigments: probability of each of `PIGMENTS`.
    """

    irregularity: float
    edge: float
    network: float
    distortion: float
    globules: float
    cysts: float
    ridges: float
    regression: float
    streaks: float
    patches: float
    pigments: tuple[float, ...]


# In the order of LABELS. The pigments overlap, so that colour alone does not give the class.
HABITS = (
    Habit(
        irregularity=0.20,
        edge=0.05,
        network=0.45,
        distortion=2.2,
        globules=0.25,
        cysts=0.03,
        ridges=0.03,
        regression=0.70,
        streaks=0.60,
        patches=0.85,
        pigments=(0.12, 0.20, 0.30, 0.14, 0.24),
    ),
    Habit(
        irregularity=0.06,
        edge=0.015,
        network=0.04,
        distortion=1.2,
        globules=0.05,
        cysts=0.92,
        ridges=0.75,
        regression=0.04,
        streaks=0.02,
        patches=0.30,
        pigments=(0.36, 0.24, 0.16, 0.14, 0.10),
    ),
    Habit(
        irregularity=0.04,
        edge=0.07,
        network=0.75,
        distortion=0.8,
        globules=0.50,
        cysts=0.03,
        ridges=0.03,
        regression=0.04,
        streaks=0.02,
        patches=0.15,
        pigments=(0.26, 0.36, 0.18, 0.14, 0.06),
    ),
)


def generate(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, ...]]:
    """Generate one image.

    Returns:
        RGB image (H, W, 3), mask (H, W) of class indices, and one-hot labels.
    """
    kind = int(rng.choice(3, p=(0.3, 0.3, 0.4)))
    shape = SIZES[rng.integers(len(SIZES))]
    habit = HABITS[kind]
    tone = _tone(rng)
    depth = _depth(rng, shape, habit)
    skin = _skin(rng, shape, tone)
    opacity = step(depth, habit.edge * rng.uniform(0.6, 1.5))[..., None] * rng.uniform(0.55, 0.96)
    image = skin * (1 - opacity) + _lesion(rng, shape, habit, tone, depth) * opacity
    # Hair and vignette lie over the lesion and change nothing of its mask.
    image = _artefacts(rng, image)
    labels = tuple(int(index == kind) for index in range(3))
    return to_bytes(image + rng.normal(0, rng.uniform(0.005, 0.02), image.shape)), (depth > 0).astype(np.uint8), labels


def _tone(rng: np.random.Generator) -> Field:
    """Draw a colour of skin between two neighbours of `TONES`."""
    place = rng.uniform(0, len(TONES) - 1.001)
    low, share = int(place), place % 1
    tone: Field = (TONES[low] * (1 - share) + TONES[low + 1] * share) * (1 + rng.normal(0, 0.03, 3))
    return tone


def _depth(rng: np.random.Generator, shape: tuple[int, int], habit: Habit) -> Field:
    """Draw the signed depth inside the lesion: 0 on its border, about 1 at its centre, negative outside."""
    side = min(shape)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    y, x = y - shape[0] * rng.uniform(0.38, 0.62), x - shape[1] * rng.uniform(0.38, 0.62)
    # Distance from the centre in the lesion's own axes, relative to its radius.
    angle = rng.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    radius = side * rng.uniform(0.12, 0.36)
    distance = np.hypot(along, across * rng.uniform(1.0, 1.6)) / radius
    irregularity = habit.irregularity * np.exp(rng.normal(0, 0.4))
    outline = np.ones(shape)
    # Harmonics of the angle, as powers of a unit complex number, make the border uneven.
    turn = (along + 1j * across) / np.maximum(np.hypot(along, across), 1e-9)
    wave = turn
    for frequency in range(2, 7):
        wave = wave * turn
        amplitude = irregularity * rng.normal(0, 1.3) / frequency
        outline += amplitude * (wave * np.exp(1j * rng.uniform(0, 2 * np.pi))).real
    # Streaks are teeth around the border, of uneven length.
    if rng.random() < habit.streaks:
        theta = np.angle(turn)
        teeth = np.cos(rng.integers(10, 19) * theta + 1.5 * smooth_noise(rng, shape, side / 4))
        outline += 0.085 * teeth * np.clip(0.6 + smooth_noise(rng, shape, side / 3), 0, 2)
    outline += irregularity * fractal_noise(rng, shape, side / 8, 3) * 0.5
    depth: Field = np.clip(outline, 0.35, 1.9) - distance
    return depth


def _skin(rng: np.random.Generator, shape: tuple[int, int], tone: Field) -> Field:
    """Draw skin with uneven light, blotches and fine texture, (H, W, 3)."""
    light = 1 + 0.05 * smooth_noise(rng, shape, max(shape) / 2)
    texture = 0.014 * fractal_noise(rng, shape, 10, 2)
    redness = rng.uniform(0, 0.06) * np.clip(smooth_noise(rng, shape, max(shape) / 5), 0, None)
    skin: Field = tone * (light + texture)[..., None] + redness[..., None] * np.array([0.3, -1.0, -0.8])
    return skin


def _lesion(rng: np.random.Generator, shape: tuple[int, int], habit: Habit, tone: Field, depth: Field) -> Field:
    """Draw the colour of the lesion with its structures, (H, W, 3)."""
    first, second = PIGMENTS[rng.choice(len(PIGMENTS), 2, replace=False, p=habit.pigments)]
    colour = np.broadcast_to(0.75 * first + 0.25 * tone, (*shape, 3)) * rng.uniform(0.85, 1.25)
    if rng.random() < habit.patches:
        share = step(fractal_noise(rng, shape, min(shape) / 5, 3) - rng.uniform(-0.2, 0.6), 0.15)[..., None]
        colour = colour * (1 - share) + (0.8 * second + 0.2 * tone) * share
    colour = colour * (1 + 0.10 * fractal_noise(rng, shape, 30, 2))[..., None]
    relief = _network(rng, shape, habit) + _ridges(rng, shape, habit) + _dots(rng, shape, habit, depth)
    colour = np.clip(colour * (1 + relief[..., None]), 0, 1.2)
    if rng.random() < habit.regression:
        pale = step(smooth_noise(rng, shape, min(shape) / 6) - rng.uniform(0.1, 0.7), 0.2)[..., None]
        colour = colour * (1 - 0.7 * pale) + 0.7 * pale * (0.6 * tone + np.array([0.34, 0.35, 0.37]))
    return colour


def _network(rng: np.random.Generator, shape: tuple[int, int], habit: Habit) -> Field:
    """Draw a pigment network: a honeycomb of dark lines, bent by noise as far as the class distorts it."""
    if rng.random() >= habit.network:
        return np.zeros(shape)
    # Three plane waves at 60 degrees to one another add up to a honeycomb.
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] * (2 * np.pi / rng.uniform(17, 28))
    bend = habit.distortion * rng.uniform(0.7, 1.3)
    y, x = y + bend * fractal_noise(rng, shape, 40, 2), x + bend * fractal_noise(rng, shape, 40, 2)
    turn = rng.uniform(0, np.pi)
    waves = sum(np.cos(x * np.cos(turn + i * np.pi / 3) + y * np.sin(turn + i * np.pi / 3)) for i in range(3))
    fade = np.clip(0.55 + 0.35 * bend * fractal_noise(rng, shape, 70, 2), 0, 1.1)
    relief: Field = fade * rng.uniform(0.22, 0.38) * np.clip(np.asarray(waves), -1.2, 0.9)
    return relief


def _ridges(rng: np.random.Generator, shape: tuple[int, int], habit: Habit) -> Field:
    """Draw brain-like ridges, the level lines of a smooth field."""
    if rng.random() >= habit.ridges:
        return np.zeros(shape)
    relief: Field = rng.uniform(0.16, 0.30) * np.sin(4.5 * fractal_noise(rng, shape, rng.uniform(55, 85), 2))
    return relief


def _dots(rng: np.random.Generator, shape: tuple[int, int], habit: Habit, depth: Field) -> Field:
    """Draw dark globules and pale milia-like cysts at random places inside the lesion."""
    relief = np.zeros(shape)
    inside = np.argwhere(depth > 0.1)
    for chance, count, radius, strength in (
        (habit.globules, rng.integers(20, 50), (4.5, 8.0), -0.5),
        (habit.cysts, rng.integers(6, 22), (5.5, 12.0), 0.8),
        (0.6 * habit.cysts, rng.integers(4, 14), (6.0, 11.0), -0.6),
    ):
        # A lesion may be too small or too uneven to have an inside.
        if rng.random() >= chance or not len(inside):
            continue
        for row, column in inside[rng.integers(len(inside), size=count)]:
            _add_dot(relief, row, column, rng.uniform(*radius), strength * rng.uniform(0.6, 1.1))
    return relief


def _add_dot(relief: Field, row: int, column: int, radius: float, strength: float) -> None:
    """Add a soft disc to a relief, in place."""
    # Only the pixels that the disc reaches, clipped at the upper left. A slice clips itself at the lower right.
    reach = int(2 * radius)
    rows, columns = slice(max(row - reach, 0), row + reach + 1), slice(max(column - reach, 0), column + reach + 1)
    patch = relief[rows, columns]
    y, x = np.mgrid[rows.start : rows.start + patch.shape[0], columns.start : columns.start + patch.shape[1]]
    patch += strength * step(1 - np.hypot(y - row, x - column) / radius, 0.15)


def _artefacts(rng: np.random.Generator, image: Field) -> Field:
    """Add a vignette, hair and ruler marks, each to some of the images."""
    height, width, _ = image.shape
    if rng.random() < 0.6:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        image = image * step(rng.uniform(1.05, 1.45) - np.hypot(x, y), rng.uniform(0.05, 0.2))[..., None]
    ink = Image.new("L", (width, height))
    draw = ImageDraw.Draw(ink)
    if rng.random() < 0.6:
        for _ in range(rng.integers(3, 28)):
            draw.line(_hair(rng, height, width), fill=int(rng.integers(130, 255)), width=int(rng.integers(1, 4)))
    if rng.random() < 0.25:
        _ruler(rng, draw, height, width)
    # Blurred a little, because drawn lines have hard edges.
    cover = blur(np.asarray(ink, np.float64) / 255, 0.7)[..., None] * 0.85
    covered: Field = image * (1 - cover) + cover * rng.uniform(0.05, 0.25, 3)
    return covered


def _hair(rng: np.random.Generator, height: int, width: int) -> list[tuple[int, int]]:
    """Draw the points (x, y) of a curved hair."""
    start = rng.uniform(0, 1, 2) * (width, height)
    direction, bend, length = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.8), rng.uniform(0.3, 1.1) * width
    along = np.linspace(0, 1, 24)
    angles = direction + bend * along
    points = start + np.cumsum(np.column_stack([np.cos(angles), np.sin(angles)]), axis=0) * length / 24
    return [(int(x), int(y)) for x, y in np.rint(points)]


def _ruler(rng: np.random.Generator, draw: ImageDraw.ImageDraw, height: int, width: int) -> None:
    """Draw millimetre marks along the lower or upper edge."""
    top, pitch = bool(rng.random() < 0.5), int(rng.integers(14, 26))
    for number, x in enumerate(range(int(rng.integers(pitch)), width, pitch)):
        length = 26 if number % 5 == 0 else 14
        draw.line([(x, 0 if top else height - length), (x, length if top else height)], fill=220, width=2)
