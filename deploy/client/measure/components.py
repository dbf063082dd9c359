"""Find the connected components of a mask, measure each, and leave out the small ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_pipeline.overlay import areas
from deploy.client.measure.spacing import Spacing

Mask = NDArray[np.uint8]
# Pixels that touch at a corner belong together.
NEIGHBOURS = np.ones((3, 3), np.uint8)
MOST_COMPONENTS = 100  # of a class that are listed, the largest first


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """Say which components of a mask are left out.

    min_area: percent of the image below which a component is left out.
    keep_largest: whether to leave out all components of a class but the largest.
    """

    min_area: float = 0.0
    keep_largest: bool = False

    @property
    def active(self) -> bool:
        """Tell whether anything can be left out."""
        return self.keep_largest or self.min_area > 0


def clean(mask: Mask, cleaning: Cleaning) -> Mask:
    """Return a mask in which the components that `cleaning` leaves out are background.

    Args:
        mask: (H, W) class indices.
        cleaning: what is left out.
    """
    cleaned = mask.copy()
    for index in np.unique(mask[mask > 0]).tolist():
        labels, sizes = label(mask == index)
        dropped = sizes < cleaning.min_area / 100 * mask.size
        if cleaning.keep_largest and len(sizes) > 1:
            dropped |= np.arange(len(sizes)) != 1 + int(np.argmax(sizes[1:]))
        # Number 0 is all that lies outside of the class.
        dropped[0] = False
        cleaned[dropped[labels]] = 0
    return cleaned


def measure(
    mask: Mask, seg_classes: tuple[str, ...], spacing: Spacing | None
) -> tuple[dict[str, dict[str, float]], dict[str, list[dict[str, Any]]]]:
    """Measure each class of a mask, and each of its components.

    Args:
        mask: (H, W) class indices.
        seg_classes: names of the mask's values, "background" first.
        spacing: of the pixels, or None where it is unknown: nothing then has square millimetres.

    Returns:
        The pixels, percent and mm2 of each class, and the same of each of its components, the largest first, with its
        centroid (x, y) and box (left, top, width, height) in pixels. The image's corner is (0, 0), the centre of its
        first pixel (0.5, 0.5).
    """
    totals = areas(mask, seg_classes)
    components: dict[str, list[dict[str, Any]]] = {}
    for index, name in enumerate(seg_classes[1:], 1):
        totals[name] |= _mm2(totals[name]["pixels"], spacing)
        components[name] = _components(mask == index, spacing) if totals[name]["pixels"] else []
    return totals, components


def _components(area: NDArray[np.bool_], spacing: Spacing | None) -> list[dict[str, Any]]:
    labels, sizes = label(area)
    boxes = ndimage.find_objects(labels)
    largest = (1 + np.argsort(-sizes[1:], kind="stable"))[:MOST_COMPONENTS]
    return [_component(labels, int(number), boxes[number - 1], int(sizes[number]), spacing) for number in largest]


def _component(
    labels: NDArray[np.int32], number: int, box: tuple[slice, slice], pixels: int, spacing: Spacing | None
) -> dict[str, Any]:
    rows, columns = box
    y, x = np.nonzero(labels[box] == number)
    centre = (float(x.mean()) + columns.start + 0.5, float(y.mean()) + rows.start + 0.5)
    return {
        "pixels": pixels,
        "percent": round(100 * pixels / labels.size, 3),
        **_mm2(pixels, spacing),
        "centroid": [round(value, 2) for value in centre],
        "box": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
    }


def _mm2(pixels: float, spacing: Spacing | None) -> dict[str, float]:
    # Of a few digits, and not of a few places: pixels may be as small as microns.
    return {"mm2": float(f"{pixels * spacing.pixel_mm2:.7g}")} if spacing else {}


def label(area: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Give each component of an area a number from 1 on, and count the pixels of each number, 0 included."""
    labels, count = ndimage.label(area, NEIGHBOURS)
    return labels, np.bincount(labels.ravel(), minlength=count + 1)
