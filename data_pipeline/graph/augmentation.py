"""Choose what is changed at random in training images, and draw it for each sample."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.graph.artefacts import draw_overlay
from data_pipeline.records import Dataset

Strength = Literal["auto", "paper", "basic", "skin", "oct"]  # what a user asks for: see `RANGES`
Key = tuple[int, int, int, int]  # seed, epoch, index of the sample, how often the epoch has had it before
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
    blur: largest standard deviation of a Gaussian as a share of the image's side, for half of the images. 0 leaves it
        out of the graph.
    hair: probability of hairs over the image. Where this and the next two are 0, overlays are left out of the graph.
    ruler: probability of a ruler.
    bubbles: probability of air bubbles.
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
    blur: float = 0.0
    hair: float = 0.0
    ruler: float = 0.0
    bubbles: float = 0.0

    @property
    def overlays(self) -> dict[str, float]:
        """Return the probability of each kind of `graph.artefacts`, or nothing where all are 0."""
        chances = {"hair": self.hair, "ruler": self.ruler, "bubbles": self.bubbles}
        return chances if any(chances.values()) else {}


# The paper flips and rotates alone.
PAPER = Augmentation(scale=(1.0, 1.0), translation=0.0, brightness=0.0, contrast=0.0)
COLOUR = Augmentation(saturation=0.15, hue=6.0)
# Grey images have no hue to turn. OCT scans differ in tone and speckle from device to device.
GREY = Augmentation(gamma=0.2, speckle=0.12)
# Photographs of skin differ in focus and light, and show what lies on the skin or under the glass.
SKIN = replace(COLOUR, brightness=0.2, contrast=0.3, blur=0.006, hair=0.5, ruler=0.15, bubbles=0.2)
OCT = replace(GREY, brightness=0.2, contrast=0.3, gamma=0.3, speckle=0.2, blur=0.004)
# By a word of `Strength` other than "auto", for images with colour and without.
RANGES: dict[Strength, tuple[Augmentation, Augmentation]] = {
    "paper": (PAPER, PAPER),
    "basic": (COLOUR, GREY),
    "skin": (SKIN, SKIN),
    "oct": (OCT, OCT),
}
# What the whole of a data set's name stands for, or the word before the colon. What other data show is not known.
KINDS: dict[str, Strength] = {"synthetic:skin": "skin", "isic2017": "skin", "synthetic:oct": "oct", "retouch": "oct"}


def choose_strength(dataset: Dataset, asked: Strength) -> Strength:
    """Return the word of `RANGES` that `asked` means for a data set: "auto" is by what its images show."""
    source = dataset.name.partition(":")[0]
    return KINDS.get(dataset.name, KINDS.get(source, "basic")) if asked == "auto" else asked


def choose_ranges(dataset: Dataset, asked: Strength) -> Augmentation:
    """Return the ranges that a word of `Strength` means for a data set."""
    return RANGES[choose_strength(dataset, asked)][dataset.grey]


def draw_parameters(ranges: Augmentation, size: int, key: Key) -> dict[str, NDArray[np.generic]]:
    """Draw the parameters of one sample, by the names of the training graph's inputs.

    Args:
        ranges: the ranges to draw from.
        size: side of the network's input in pixels.
        key: all that the parameters depend on.

    Returns:
        `matrix` of `draw_matrix`, `colour` of `draw_colour` and, where the ranges have them, `speckle` of
        `draw_speckle`, `blur` of `draw_blur` and `overlay` of `graph.artefacts.draw_overlay`.
    """
    rng = np.random.default_rng(key)
    drawn: dict[str, NDArray[np.generic]] = {"matrix": draw_matrix(rng, ranges, size)}
    drawn["colour"] = draw_colour(rng, ranges)
    if ranges.speckle:
        drawn["speckle"] = draw_speckle(rng, ranges, size)
    if ranges.blur:
        drawn["blur"] = draw_blur(rng, ranges, size)
    if ranges.overlays:
        drawn["overlay"] = draw_overlay(rng, ranges.overlays, size)
    return drawn


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


def draw_blur(rng: np.random.Generator, ranges: Augmentation, size: int) -> FloatArray:
    """Draw the standard deviation of the blur in pixels, (1,), which leaves about half of the images sharp."""
    # Not 0, for which DALI would choose a deviation itself. One so small blurs nothing.
    return np.maximum(rng.uniform(-1, 1, 1) * ranges.blur * size, 0.01).astype(np.float32)
