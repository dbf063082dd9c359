"""Draw the anatomy of a generated B-scan: the layers' boundary curves y(x), and the mask of the fluids between them.

Fluid under a layer lifts that layer and all above it. The area of each fluid is drawn first, evenly over the orders of
magnitude of `SHARE`. The fluids are intraretinal (IRF), subretinal (SRF) and below the retinal pigment epithelium
(RPE), as a pigment epithelial detachment (PED).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.sources.synthetic.fields import Field, curve, smooth_noise

IRF, SRF, PED = 1, 2, 3
WIDTH = 512
PRESENCE = (0.42, 0.42, 0.38)  # probability of IRF, SRF, PED
SHARE = (0.0015, 0.18)  # smallest and largest share of the image that a fluid is meant to cover
SMALLEST = 0.001  # a smaller share is a few pixels of the network's input, and is neither shown nor labelled
# In pixels, of each layer from the inner limiting membrane down to the RPE.
THICKNESS = (14, 26, 17, 10, 34, 5, 11)
RPE_THICKNESS, MARGIN = 9, 12
INNER_NUCLEAR, OUTER_NUCLEAR = 2, 4  # numbers of the layers in which intraretinal cysts lie
CYST_FILL = 0.6  # share of a swelling that is cyst
SMALLEST_CYST = 100  # pixels
MOST_CYSTS = 40


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
