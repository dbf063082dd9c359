"""OCT-like B-scans: retinal layers with speckle and shadows, and fluid where anatomy puts it.

Everything is built from boundary curves y(x): fluid under a layer lifts that layer and all above it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.synthetic.fields import Field, blur, curve, fractal_noise, smooth_noise, step, to_bytes

SEG_CLASSES = ("background", "IRF", "SRF", "PED")
LABELS = ("IRF", "SRF", "PED")
SUFFIX = ".png"
IRF, SRF, PED = 1, 2, 3
WIDTH = 512
# thickness in pixels and brightness of each layer from the inner limiting membrane down to the RPE
LAYERS = ((14, 0.80), (26, 0.56), (17, 0.36), (10, 0.55), (34, 0.26), (5, 0.62), (11, 0.42))
RPE_THICKNESS, RPE_BRIGHTNESS = 9, 0.95
INNER_NUCLEAR, OUTER_NUCLEAR = 2, 4  # layers in which intraretinal cysts lie


@dataclass(frozen=True)
class Vendor:
    """A device's style: scan height in pixels, magnification of depth, speckle looks (more is smoother), noise floor
    and contrast exponent."""

    height: int
    zoom: float
    looks: float
    floor: float
    gamma: float


VENDORS = (Vendor(496, 1.0, 7.0, 0.04, 1.15), Vendor(650, 1.3, 3.5, 0.12, 0.9), Vendor(768, 1.5, 2.5, 0.09, 1.0))


@dataclass(frozen=True)
class Anatomy:
    """boundaries: (layers + 1, W) rows from the inner membrane to the retina's outer border; rpe, bruch: (W,) rows."""

    boundaries: Field
    rpe: Field
    bruch: Field


def generate(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, ...]]:
    """Grey image (H, W), mask (H, W) of class indices, presence of each fluid."""
    vendor = VENDORS[rng.integers(len(VENDORS))]
    shape = (vendor.height, WIDTH)
    present = rng.random(3) < (0.42, 0.42, 0.38)
    rows = np.arange(vendor.height, dtype=np.float64)[:, None]
    swelling = vendor.zoom * _bump(rng, 35, 95) if present[0] else np.zeros(WIDTH)
    anatomy = _anatomy(rng, vendor, present, swelling)
    mask = _fluid(rng, anatomy, rows, swelling)
    tissue = _tissue(rng, anatomy, rows)
    tissue = np.where(mask > 0, _fluid_brightness(rng, mask), tissue)
    image = _speckle(rng, blur(_shadows(rng, tissue, anatomy, rows), 0.8), vendor, shape)
    return to_bytes(image), mask, tuple(int((mask == kind).any()) for kind in (IRF, SRF, PED))


def _bump(rng: np.random.Generator, low: float, high: float) -> Field:
    """(W,) lens-shaped height profile of `low` to `high` pixels, flat outside of it."""
    centre, half = rng.uniform(0.2, 0.8) * WIDTH, rng.uniform(40, 170)
    inside = np.clip(1 - ((np.arange(WIDTH) - centre) / half) ** 2, 0, None)
    return inside ** rng.uniform(0.8, 1.4) * rng.uniform(low, high) * np.clip(1 + 0.10 * curve(rng, WIDTH, 40), 0, None)


def _anatomy(rng: np.random.Generator, vendor: Vendor, present: NDArray[np.bool_], swelling: Field) -> Anatomy:
    """Bruch's membrane first, then upwards; each fluid adds its height to everything above it."""
    x = np.linspace(-1, 1, WIDTH)
    bruch = vendor.height * rng.uniform(0.62, 0.78) + rng.normal(0, 16) * x + rng.uniform(-5, 28) * x**2
    bruch = bruch + 2 * curve(rng, WIDTH, 120)
    ped = vendor.zoom * _bump(rng, 12, 95) if present[2] else np.zeros(WIDTH)
    rpe = bruch - ped - RPE_THICKNESS * (1 + 0.08 * curve(rng, WIDTH, 50))
    srf = vendor.zoom * _bump(rng, 9, 75) if present[1] else np.zeros(WIDTH)
    boundaries = [rpe - srf]
    pit = 1 - rng.uniform(0.3, 0.8) * np.exp(-(((x - rng.normal(0, 0.3)) / rng.uniform(0.15, 0.3)) ** 2))
    scale = vendor.zoom * rng.uniform(0.8, 1.15)
    for number, (thickness, _) in reversed(list(enumerate(LAYERS))):
        layer = thickness * scale * (1 + 0.10 * curve(rng, WIDTH, 80)) * (pit if number < OUTER_NUCLEAR else 1)
        share = {INNER_NUCLEAR: 0.4, OUTER_NUCLEAR: 0.6}.get(number, 0.0)
        boundaries.append(boundaries[-1] - layer - share * swelling)
    return Anatomy(np.stack(boundaries[::-1]), rpe, bruch)


def _fluid(rng: np.random.Generator, anatomy: Anatomy, rows: Field, swelling: Field) -> NDArray[np.uint8]:
    """Mask of class indices: SRF between retina and RPE, PED under the RPE, IRF as cysts in the nuclear layers."""
    mask = np.zeros((len(rows), WIDTH), np.uint8)
    retina = anatomy.boundaries[-1]
    mask[(rows >= retina) & (rows < anatomy.rpe) & (anatomy.rpe - retina > 3)] = SRF
    lower_rpe = anatomy.rpe + RPE_THICKNESS
    mask[(rows >= lower_rpe) & (rows < anatomy.bruch) & (anatomy.bruch - lower_rpe > 3)] = PED
    if swelling.any():
        mask[_cysts(rng, anatomy, rows, swelling)] = IRF
    return mask


def _cysts(rng: np.random.Generator, anatomy: Anatomy, rows: Field, swelling: Field) -> NDArray[np.bool_]:
    """(H, W) cysts: wobbly ellipses where the retina is swollen, kept inside their layer."""
    columns = np.arange(WIDTH)
    cysts = np.zeros((len(rows), WIDTH), bool)
    wobble = smooth_noise(rng, (len(rows), WIDTH), 14)
    for _ in range(rng.integers(1, 10)):
        layer = int(rng.choice((INNER_NUCLEAR, OUTER_NUCLEAR), p=(0.4, 0.6)))
        top, bottom = anatomy.boundaries[layer], anatomy.boundaries[layer + 1]
        column = int(rng.choice(WIDTH, p=np.clip(swelling, 0, None) ** 2 / (np.clip(swelling, 0, None) ** 2).sum()))
        room = bottom[column] - top[column]
        tall, wide = 0.5 * room * rng.uniform(0.6, 1.1), rng.uniform(10, 44)
        row = top[column] + 0.5 * room
        distance = ((rows - row - 0.5 * (top + bottom - top[column] - bottom[column])) / tall) ** 2
        distance = distance + ((columns - column) / wide) ** 2
        cysts |= (distance + 0.15 * wobble < 1) & (rows > top + 1) & (rows < bottom - 1)
    return cysts


def _tissue(rng: np.random.Generator, anatomy: Anatomy, rows: Field) -> Field:
    """Brightness of vitreous, layers, RPE and choroid before speckle, (H, W) in [0, 1]."""
    shape = (len(rows), WIDTH)
    image = np.full(shape, rng.uniform(0.02, 0.07))
    scale = 1 + 0.08 * rng.standard_normal(len(LAYERS))
    for number, (_, brightness) in enumerate(LAYERS):
        image = np.where(rows >= anatomy.boundaries[number], brightness * scale[number], image)
    image = image * (1 + 0.10 * fractal_noise(rng, shape, 24, 2))
    image = np.where(rows >= anatomy.rpe, RPE_BRIGHTNESS, image)
    depth = rows - anatomy.bruch
    choroid = 0.62 * np.exp(-np.clip(depth, 0, None) / rng.uniform(40, 90)) + 0.04
    vessels = step(fractal_noise(rng, shape, rng.uniform(14, 26), 3) - 0.6, 0.3) * (depth > 12)
    choroid = choroid * (1 - rng.uniform(0.3, 0.65) * vessels)
    image = np.where(depth >= 0, choroid, image)
    if rng.random() < 0.35:
        hyaloid = anatomy.boundaries[0] - rng.uniform(15, 60) - 8 * curve(rng, WIDTH, 150)
        image = np.where(np.abs(rows - hyaloid) < 1.2, 0.3, image)
    return image


def _fluid_brightness(rng: np.random.Generator, mask: NDArray[np.uint8]) -> Field:
    """Fluid is dark; under the RPE it may hold tissue and be grey."""
    brightness = np.array([0, rng.uniform(0.04, 0.12), rng.uniform(0.03, 0.12), rng.uniform(0.06, 0.4)])
    texture: Field = 1 + 0.15 * smooth_noise(rng, (mask.shape[0], mask.shape[1]), 20)
    return brightness[mask] * texture


def _shadows(rng: np.random.Generator, tissue: Field, anatomy: Anatomy, rows: Field) -> Field:
    """Vessels of the inner retina darken all that lies below them; the light also falls off to one side."""
    columns = np.arange(WIDTH)
    for _ in range(rng.integers(0, 7)):
        centre, half = rng.uniform(0, WIDTH), rng.uniform(3, 11)
        across = np.exp(-(((columns - centre) / half) ** 4))
        below = rows > anatomy.boundaries[0] + rng.uniform(6, 22)
        tissue = tissue * (1 - rng.uniform(0.35, 0.8) * across * below)
    light: Field = (1 + rng.uniform(-0.3, 0.3) * np.linspace(-1, 1, WIDTH)) * (1 + 0.12 * curve(rng, WIDTH, 90))
    return tissue * light


def _speckle(rng: np.random.Generator, tissue: Field, vendor: Vendor, shape: tuple[int, int]) -> Field:
    """Multiplicative gamma speckle, a noise floor, then the device's contrast."""
    looks = vendor.looks * rng.uniform(0.8, 1.3)
    speckle = blur(rng.gamma(looks, 1 / looks, shape), 0.6)
    floor = vendor.floor * rng.uniform(0.7, 1.3) * np.abs(rng.normal(0.6, 0.5, shape))
    image: Field = np.clip(np.clip(tissue, 0, None) * speckle * rng.uniform(0.75, 1.05) + floor, 0, 1)
    return np.asarray(image**vendor.gamma)
