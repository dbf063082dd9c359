"""Generate OCT-like B-scans of retinal layers with speckle and shadows, and fluid where anatomy has it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.sources.synthetic.fields import Field, blur, curve, fractal_noise, smooth_noise, step, to_bytes
from data_pipeline.sources.synthetic.oct_anatomy import IRF, PED, SRF, WIDTH, Anatomy, draw_anatomy, fluid_mask

SEG_CLASSES = ("background", "IRF", "SRF", "PED")
LABELS = ("IRF", "SRF", "PED")
SUFFIX = ".png"
# Of each layer, from the inner limiting membrane down to the retinal pigment epithelium (RPE).
BRIGHTNESS = (0.80, 0.56, 0.36, 0.55, 0.26, 0.62, 0.42)
RPE_BRIGHTNESS = 0.95


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """Describe the style of a device.

    height: height of a scan in pixels.
    zoom: magnification of depth.
    looks: how many speckle patterns are averaged. More are smoother.
    floor: strength of the noise where there is no tissue.
    gamma: exponent of the contrast.
    """

    height: int
    zoom: float
    looks: float
    floor: float
    gamma: float


VENDORS = (
    Vendor(height=496, zoom=1.0, looks=7.0, floor=0.04, gamma=1.15),
    Vendor(height=650, zoom=1.3, looks=3.5, floor=0.12, gamma=0.9),
    Vendor(height=768, zoom=1.5, looks=2.5, floor=0.09, gamma=1.0),
)


def generate(rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, ...]]:
    """Generate one B-scan.

    Returns:
        Grey image (H, W), mask (H, W) of class indices, and for each fluid 1 if it is present, else 0.
    """
    vendor = VENDORS[rng.integers(len(VENDORS))]
    shape = (vendor.height, WIDTH)
    rows = np.arange(vendor.height, dtype=np.float64)[:, None]
    anatomy = draw_anatomy(rng, vendor.height, vendor.zoom)
    mask = fluid_mask(rng, anatomy, rows)
    tissue = _tissue(rng, anatomy, rows)
    tissue = np.where(mask > 0, _fluid_brightness(rng, mask), tissue)
    # Blurred before the speckle, which has a grain of its own.
    image = _speckle(rng, blur(_shadows(rng, tissue, anatomy, rows), 0.8), vendor, shape)
    return to_bytes(image), mask, tuple(int((mask == kind).any()) for kind in (IRF, SRF, PED))


def _tissue(rng: np.random.Generator, anatomy: Anatomy, rows: Field) -> Field:
    """Draw the brightness of vitreous, layers, RPE and choroid before speckle, (H, W) in [0, 1]."""
    shape = (len(rows), WIDTH)
    image = np.full(shape, rng.uniform(0.02, 0.07))
    brightness = BRIGHTNESS * (1 + 0.08 * rng.standard_normal(len(BRIGHTNESS)))
    # From the top down, each layer over all that lies below. The last boundary is that of fluid or of the RPE.
    for boundary, value in zip(anatomy.boundaries, brightness, strict=False):
        image = np.where(rows >= boundary, value, image)
    image = image * (1 + 0.10 * fractal_noise(rng, shape, 24, 2))
    image = np.where(rows >= anatomy.rpe, RPE_BRIGHTNESS, image)
    # The choroid lies below Bruch's membrane, fades with depth and is crossed by dark vessels.
    depth = rows - anatomy.bruch
    choroid = 0.62 * np.exp(-np.clip(depth, 0, None) / rng.uniform(40, 90)) + 0.04
    vessels = step(fractal_noise(rng, shape, rng.uniform(14, 26), 3) - 0.6, 0.3) * (depth > 12)
    choroid = choroid * (1 - rng.uniform(0.3, 0.65) * vessels)
    image = np.where(depth >= 0, choroid, image)
    # In some eyes the posterior hyaloid shows as a thin line in the vitreous.
    if rng.random() < 0.35:
        hyaloid = anatomy.boundaries[0] - rng.uniform(15, 60) - 8 * curve(rng, WIDTH, 150)
        image = np.where(np.abs(rows - hyaloid) < 1.2, 0.3, image)
    return image


def _fluid_brightness(rng: np.random.Generator, mask: NDArray[np.uint8]) -> Field:
    """Draw the brightness of fluid, which is dark, but may be grey under the RPE where it holds tissue."""
    brightness = np.array([0, rng.uniform(0.04, 0.12), rng.uniform(0.03, 0.12), rng.uniform(0.06, 0.4)])
    texture: Field = 1 + 0.15 * smooth_noise(rng, (mask.shape[0], mask.shape[1]), 20)
    return brightness[mask] * texture


def _shadows(rng: np.random.Generator, tissue: Field, anatomy: Anatomy, rows: Field) -> Field:
    """Reduce the light below vessels of the inner retina, and towards one side of the scan."""
    columns = np.arange(WIDTH)
    for _ in range(rng.integers(0, 7)):
        centre, half = rng.uniform(0, WIDTH), rng.uniform(3, 11)
        across = np.exp(-(((columns - centre) / half) ** 4))
        below = rows > anatomy.boundaries[0] + rng.uniform(6, 22)
        tissue = tissue * (1 - rng.uniform(0.35, 0.8) * across * below)
    light: Field = (1 + rng.uniform(-0.3, 0.3) * np.linspace(-1, 1, WIDTH)) * (1 + 0.12 * curve(rng, WIDTH, 90))
    return tissue * light


def _speckle(rng: np.random.Generator, tissue: Field, vendor: Vendor, shape: tuple[int, int]) -> Field:
    """Multiply by gamma-distributed speckle, add a noise floor, and apply the device's contrast."""
    looks = vendor.looks * rng.uniform(0.8, 1.3)
    speckle = blur(rng.gamma(looks, 1 / looks, shape), 0.6)
    floor = vendor.floor * rng.uniform(0.7, 1.3) * np.abs(rng.normal(0.6, 0.5, shape))
    image: Field = np.clip(np.clip(tissue, 0, None) * speckle * rng.uniform(0.75, 1.05) + floor, 0, 1)
    return np.asarray(image**vendor.gamma)
