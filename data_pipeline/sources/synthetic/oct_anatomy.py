"""Where the layers and the fluids of a generated B-scan lie: boundary curves y(x), and the mask between them.

Fluid under a layer lifts that layer and all above it. How much there is of each fluid is drawn first, evenly over the
orders of magnitude of `SHARE`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_pipeline.sources.synthetic.fields import Field, curve, smooth_noise

IRF, SRF, PED = 1, 2, 3
WIDTH = 512
PRESENCE = (0.42, 0.42, 0.38)  # of IRF, SRF, PED
SHARE = (0.0015, 0.18)  # of the image, that a fluid is meant to cover
SMALLEST = 0.001  # a smaller one is a few pixels of the network's input: neither shown nor labelled
# thickness in pixels of each layer from the inner limiting membrane down to the RPE
THICKNESS = (14, 26, 17, 10, 34, 5, 11)
RPE_THICKNESS, MARGIN = 9, 12
INNER_NUCLEAR, OUTER_NUCLEAR = 2, 4  # layers in which intraretinal cysts lie
CYST_FILL, SMALLEST_CYST, MOST_CYSTS = 0.6, 100, 40  # share of a swelling that is cyst; pixels; a number


@dataclass(frozen=True)
class Anatomy:
    """boundaries: (layers + 1, W) rows from the inner membrane to the retina's outer border; rpe, bruch: (W,) rows;
    swelling: (W,) pixels by which cysts thicken the nuclear layers; cysts: pixels that they are meant to cover."""

    boundaries: Field
    rpe: Field
    bruch: Field
    swelling: Field
    cysts: float


def draw_anatomy(rng: np.random.Generator, height: int, zoom: float) -> Anatomy:
    """Bruch's membrane first, then upwards; each fluid adds its height to everything above it."""
    x = np.linspace(-1, 1, WIDTH)
    bruch = height * rng.uniform(0.62, 0.78) + rng.normal(0, 16) * x + rng.uniform(-5, 28) * x**2
    bruch = bruch + 2 * curve(rng, WIDTH, 120)
    scale = zoom * rng.uniform(0.8, 1.15)
    low, high = np.log(SHARE)
    area = height * WIDTH * np.exp(rng.uniform(low, high, 3)) * (rng.random(3) < PRESENCE)
    room = bruch.min() - scale * 1.1 * sum(THICKNESS) - RPE_THICKNESS - MARGIN
    swelling, srf, ped = _fitting(
        np.stack([_bumps(rng, area[0] / CYST_FILL), *(_bumps(rng, one) for one in area[1:])]), room
    )
    rpe = bruch - ped - RPE_THICKNESS * (1 + 0.08 * curve(rng, WIDTH, 50))
    boundaries = [rpe - srf]
    pit = 1 - rng.uniform(0.3, 0.8) * np.exp(-(((x - rng.normal(0, 0.3)) / rng.uniform(0.15, 0.3)) ** 2))
    for number, thickness in reversed(list(enumerate(THICKNESS))):
        layer = thickness * scale * (1 + 0.10 * curve(rng, WIDTH, 80)) * (pit if number < OUTER_NUCLEAR else 1)
        share = {INNER_NUCLEAR: 0.4, OUTER_NUCLEAR: 0.6}.get(number, 0.0)
        boundaries.append(boundaries[-1] - layer - share * swelling)
    return Anatomy(np.stack(boundaries[::-1]), rpe, bruch, swelling, float(area[0]))


def _bumps(rng: np.random.Generator, area: float) -> Field:
    """(W,) lens-shaped height profiles, one to three, that cover `area` pixels together; flat outside of them."""
    profile = np.zeros(WIDTH)
    for share in rng.dirichlet([2.0] * int(rng.integers(1, 4))):
        # a lens covers 4/3 of its height times its half width, which is 1.2 to 4 times the height
        half = np.clip(np.sqrt(0.75 * share * area * rng.uniform(1.2, 4.0)), 6, 0.48 * WIDTH)
        centre = rng.uniform(half, WIDTH - half)
        lens = np.clip(1 - ((np.arange(WIDTH) - centre) / half) ** 2, 0, None) ** rng.uniform(0.8, 1.4)
        profile += lens * np.clip(1 + 0.10 * curve(rng, WIDTH, 40), 0, None) * share * area / lens.sum()
    return profile


def _fitting(lifts: Field, room: float) -> Field:
    """The same lifts, lowered together where they would push the retina out of the image."""
    lowered: Field = lifts * min(1.0, room / max(lifts.sum(axis=0).max(), 1.0))
    return lowered


def fluid_mask(rng: np.random.Generator, anatomy: Anatomy, rows: Field) -> NDArray[np.uint8]:
    """Mask of class indices: SRF between retina and RPE, PED under the RPE, IRF as cysts in the nuclear layers."""
    mask = np.zeros((len(rows), WIDTH), np.uint8)
    retina, lower_rpe = anatomy.boundaries[-1], anatomy.rpe + RPE_THICKNESS
    mask[(rows >= retina) & (rows < anatomy.rpe) & (anatomy.rpe - retina > 3)] = SRF
    mask[(rows >= lower_rpe) & (rows < anatomy.bruch) & (anatomy.bruch - lower_rpe > 3)] = PED
    if anatomy.cysts:
        mask[_cysts(rng, anatomy, rows)] = IRF
    share = np.bincount(mask.ravel(), minlength=4) / mask.size
    return np.where(share[mask] < SMALLEST, 0, mask).astype(np.uint8)


def _cysts(rng: np.random.Generator, anatomy: Anatomy, rows: Field) -> NDArray[np.bool_]:
    """(H, W) cysts: wobbly ellipses where the retina is swollen, kept inside their layer, until there are enough."""
    columns = np.arange(WIDTH)
    cysts = np.zeros((len(rows), WIDTH), bool)
    wobble = smooth_noise(rng, (len(rows), WIDTH), 14)
    where = anatomy.swelling**2 / (anatomy.swelling**2).sum()
    for _ in range(MOST_CYSTS):
        missing = anatomy.cysts - cysts.sum()
        if missing < SMALLEST_CYST:
            break
        layer, column = int(rng.choice((INNER_NUCLEAR, OUTER_NUCLEAR), p=(0.4, 0.6))), int(rng.choice(WIDTH, p=where))
        top, bottom = anatomy.boundaries[layer], anatomy.boundaries[layer + 1]
        tall, wide = 0.5 * (bottom - top)[column] * rng.uniform(0.6, 1.1), rng.uniform(10, 60)
        shrink = min(1.0, np.sqrt(missing / (np.pi * tall * wide)))
        middle = 0.5 * (top + bottom)
        distance = ((rows - middle) / (shrink * tall)) ** 2 + ((columns - column) / (shrink * wide)) ** 2
        cysts |= (distance + 0.15 * wobble < 1) & (rows > top + 1) & (rows < bottom - 1)
    return cysts
