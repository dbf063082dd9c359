"""Generate OCT-like B-scans: layers and fluid where anatomy puts them, then speckle and shadows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.sources.synthetic.fields import Field, blur, curve, fractal_noise, smooth_noise, step, to_bytes

SEG_CLASSES = ("background", "IRF", "SRF", "PED")
LABELS = ("IRF", "SRF", "PED")
SUFFIX = ".png"
IRF, SRF, PED = 1, 2, 3
WIDTH = 512
PRESENCE = (0.42, 0.42, 0.38)  # probability of IRF, SRF, PED
SHARE = (0.0015, 0.18)  # smallest and largest share of the image that a fluid is meant to cover
SMALLEST = 0.001  # a smaller share is a few pixels of the network's input, and is neither shown nor labelled
# Of each layer from the inner limiting membrane down to the retinal pigment epithelium (RPE), then of the RPE.
THICKNESS, RPE_THICKNESS = (14, 26, 17, 10, 34, 5, 11), 9  # pixels
BRIGHTNESS, RPE_BRIGHTNESS = (0.80, 0.56, 0.36, 0.55, 0.26, 0.62, 0.42), 0.95
MARGIN = 12  # pixels above the retina that stay free
INNER_NUCLEAR, OUTER_NUCLEAR = 2, 4  # numbers of the layers in which intraretinal cysts lie
CYST_FILL = 0.6  # share of a swelling that is cyst
SMALLEST_CYST = 100  # pixels
MOST_CYSTS = 40


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


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Hold where the layers of a B-scan lie.

    boundaries: (layers + 1, W) rows of the boundaries, from the inner limiting membrane to the retina's outer border.
    rpe: (W,) rows of the upper edge of the RPE.
    bruch: (W,) rows of Bruch's membrane.
    swelling: (W,) pixels by which cysts thicken the nuclear layers.
    cysts: pixels that the cysts are meant to cover.
    """

    boundaries: Field
    rpe: Field
    bruch: Field
    swelling: Field
    cysts: float


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


def draw_anatomy(rng: np.random.Generator, height: int, zoom: float) -> Anatomy:
    """Draw the layers from Bruch's membrane upwards, each lifted by the fluids below it.

    Args:
        rng: source of random numbers.
        height: height of the scan in pixels.
        zoom: magnification of depth.
    """
    x = np.linspace(-1, 1, WIDTH)
    bruch = height * rng.uniform(0.62, 0.78) + rng.normal(0, 16) * x + rng.uniform(-5, 28) * x**2
    bruch = bruch + 2 * curve(rng, WIDTH, 120)
    scale = zoom * rng.uniform(0.8, 1.15)
    # Even in the logarithm of the share, so that small fluids are as frequent as large ones.
    low, high = np.log(SHARE)
    area = height * WIDTH * np.exp(rng.uniform(low, high, 3)) * (rng.random(3) < PRESENCE)
    # What is left above the retina, at its thickest and without fluids.
    room = bruch.min() - scale * 1.1 * sum(THICKNESS) - RPE_THICKNESS - MARGIN
    swelling, srf, ped = _limit(
        np.stack([_bumps(rng, area[0] / CYST_FILL), *(_bumps(rng, one) for one in area[1:])]), room
    )
    rpe = bruch - ped - RPE_THICKNESS * (1 + 0.08 * curve(rng, WIDTH, 50))
    boundaries = [rpe - srf]
    # The fovea: a pit in the inner layers, near the middle of the scan.
    pit = 1 - rng.uniform(0.3, 0.8) * np.exp(-(((x - rng.normal(0, 0.3)) / rng.uniform(0.15, 0.3)) ** 2))
    for number, thickness in reversed(list(enumerate(THICKNESS))):
        layer = thickness * scale * (1 + 0.10 * curve(rng, WIDTH, 80)) * (pit if number < OUTER_NUCLEAR else 1)
        # Cysts lie in the two nuclear layers, which share the swelling.
        share = {INNER_NUCLEAR: 0.4, OUTER_NUCLEAR: 0.6}.get(number, 0.0)
        boundaries.append(boundaries[-1] - layer - share * swelling)
    return Anatomy(boundaries=np.stack(boundaries[::-1]), rpe=rpe, bruch=bruch, swelling=swelling, cysts=float(area[0]))


def _bumps(rng: np.random.Generator, area: float) -> Field:
    """Draw one to three lens-shaped bumps that cover `area` pixels together, as heights of (W,)."""
    profile = np.zeros(WIDTH)
    for share in rng.dirichlet([2.0] * int(rng.integers(1, 4))):
        # A lens covers 4/3 of its height times its half width, and the half width is 1.2 to 4 times the height.
        half = np.clip(np.sqrt(0.75 * share * area * rng.uniform(1.2, 4.0)), 6, 0.48 * WIDTH)
        centre = rng.uniform(half, WIDTH - half)
        lens = np.clip(1 - ((np.arange(WIDTH) - centre) / half) ** 2, 0, None) ** rng.uniform(0.8, 1.4)
        # Scaled by its sum, so that the area stays what was drawn, whatever the exponent.
        profile += lens * np.clip(1 + 0.10 * curve(rng, WIDTH, 40), 0, None) * share * area / lens.sum()
    return profile


def _limit(lifts: Field, room: float) -> Field:
    """Lower all lifts by one factor if they would push the retina out of the image."""
    lowered: Field = lifts * min(1.0, room / max(lifts.sum(axis=0).max(), 1.0))
    return lowered


def fluid_mask(rng: np.random.Generator, anatomy: Anatomy, rows: Field) -> NDArray[np.uint8]:
    """Draw the mask of the fluids that an anatomy has room for.

    SRF lies between retina and RPE, PED under the RPE, and IRF as cysts in the nuclear layers.

    Args:
        rng: source of random numbers.
        anatomy: where the layers lie.
        rows: (H, 1) row numbers.

    Returns:
        (H, W) class indices.
    """
    mask = np.zeros((len(rows), WIDTH), np.uint8)
    retina, lower_rpe = anatomy.boundaries[-1], anatomy.rpe + RPE_THICKNESS
    # A gap of 3 pixels or less is no fluid: the uneven thickness of the RPE alone opens such gaps.
    mask[(rows >= retina) & (rows < anatomy.rpe) & (anatomy.rpe - retina > 3)] = SRF
    mask[(rows >= lower_rpe) & (rows < anatomy.bruch) & (anatomy.bruch - lower_rpe > 3)] = PED
    if anatomy.cysts:
        mask[_cysts(rng, anatomy, rows)] = IRF
    share = np.bincount(mask.ravel(), minlength=4) / mask.size
    return np.where(share[mask] < SMALLEST, 0, mask).astype(np.uint8)


def _cysts(rng: np.random.Generator, anatomy: Anatomy, rows: Field) -> NDArray[np.bool_]:
    """Draw cysts as (H, W) booleans: uneven ellipses where the retina is swollen, until they cover enough."""
    columns = np.arange(WIDTH)
    cysts = np.zeros((len(rows), WIDTH), bool)
    wobble = smooth_noise(rng, (len(rows), WIDTH), 14)
    # The square favours the thickest part of a swelling.
    where = anatomy.swelling**2 / (anatomy.swelling**2).sum()
    for _ in range(MOST_CYSTS):
        missing = anatomy.cysts - cysts.sum()
        if missing < SMALLEST_CYST:
            break
        layer, column = int(rng.choice((INNER_NUCLEAR, OUTER_NUCLEAR), p=(0.4, 0.6))), int(rng.choice(WIDTH, p=where))
        top, bottom = anatomy.boundaries[layer], anatomy.boundaries[layer + 1]
        tall, wide = 0.5 * (bottom - top)[column] * rng.uniform(0.6, 1.1), rng.uniform(10, 60)
        # The last cyst is shrunk to the area that is still missing.
        shrink = min(1.0, np.sqrt(missing / (np.pi * tall * wide)))
        middle = 0.5 * (top + bottom)
        distance = ((rows - middle) / (shrink * tall)) ** 2 + ((columns - column) / (shrink * wide)) ** 2
        # Cut at the layer's boundaries, as a cyst does not cross them.
        cysts |= (distance + 0.15 * wobble < 1) & (rows > top + 1) & (rows < bottom - 1)
    return cysts


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
