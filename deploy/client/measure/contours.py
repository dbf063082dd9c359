"""Write the outlines of a mask as polygons, as GeoJSON or COCO."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from deploy.client.measure.components import label

Mask = NDArray[np.uint8]
Ring = list[list[float]]
Polygon = list[Ring]  # an outer ring, then its holes
# The outline runs halfway between the centres of pixels inside and outside.
HALFWAY = 0.5


def polygons(area: NDArray[np.bool_], corner: tuple[int, int] = (0, 0)) -> list[Polygon]:
    """Return the polygons around an area.

    Args:
        area: (H, W) booleans.

        corner: (x, y) of the area's first pixel in the image.

    Returns:
        Closed rings of (x, y) in pixels, where the image's corner is (0, 0). The centres of exactly the area's pixels
        lie inside.
    """
    # A border of zeros closes what the image's edge cuts off.
    padded = np.pad(area.astype(np.float32), 1)
    # Of this type of filling: the points of each polygon, and where its rings begin and end.
    filled: Any = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(HALFWAY, np.inf)
    return [
        [_ring(line[start:end] + np.array(corner)) for start, end in pairwise(starts)]
        for line, starts in zip(*filled, strict=True)
    ]


def _ring(points: NDArray[np.float64]) -> Ring:
    """Return a ring in pixels of the image, without the points in the middle of straight lines."""
    # The centre of the first pixel is (1, 1) in the padded area and (0.5, 0.5) in the image.
    shifted = points[:-1] - HALFWAY
    steps = np.diff(shifted, axis=0, append=shifted[:1])
    before = np.roll(steps, 1, axis=0)
    turns = before[:, 0] * steps[:, 1] != before[:, 1] * steps[:, 0]
    kept = shifted[turns] if turns.any() else shifted
    return [*kept.tolist(), kept[0].tolist()]


def geojson(mask: Mask, seg_classes: tuple[str, ...], file: str) -> str:
    """Return the outlines as a GeoJSON feature collection, one feature for each polygon, in pixels of the image.

    Args:
        mask: (H, W) class indices.
        seg_classes: names of the mask's values, "background" first.
        file: the image's name.
    """
    features = [
        {
            "type": "Feature",
            "properties": {"class": name, "index": index},
            "geometry": {"type": "Polygon", "coordinates": polygon},
        }
        for index, name in enumerate(seg_classes)
        if index and (mask == index).any()
        for polygon in polygons(mask == index)
    ]
    return json.dumps({"type": "FeatureCollection", "properties": {"image": file}, "features": features}) + "\n"


def coco(mask: Mask, seg_classes: tuple[str, ...], file: str) -> str:
    """Return the outlines as a COCO data set of one image, one annotation for each connected component.

    COCO's polygons have no holes: a component with some is written as its run lengths. The arguments are those of
    `geojson`.
    """
    annotations: list[dict[str, Any]] = []
    for index in range(1, len(seg_classes)):
        labels, _ = label(mask == index)
        for number, box in enumerate(find_objects(labels), 1):
            annotations.append(_annotation(labels[box] == number, box, mask.shape, index, len(annotations) + 1))
    height, width = mask.shape
    written = {
        "images": [{"id": 1, "file_name": file, "width": width, "height": height}],
        "categories": [{"id": index, "name": name} for index, name in enumerate(seg_classes) if index],
        "annotations": annotations,
    }
    return json.dumps(written) + "\n"


def _annotation(
    area: NDArray[np.bool_], box: tuple[slice, slice], shape: tuple[int, ...], category: int, number: int
) -> dict[str, Any]:
    """Describe a component, given within its box, since a photograph of many of them would take minutes."""
    rows, columns = box
    found = polygons(area, (columns.start, rows.start))
    holes = any(len(polygon) > 1 for polygon in found)
    outlines = [[value for point in polygon[0][:-1] for value in point] for polygon in found]
    return {
        "id": number,
        "image_id": 1,
        "category_id": category,
        "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
        "area": int(area.sum()),
        "iscrowd": 0,
        "segmentation": _whole_mask(area, box, shape) if holes else outlines,
    }


def _whole_mask(area: NDArray[np.bool_], box: tuple[slice, slice], shape: tuple[int, ...]) -> dict[str, Any]:
    whole = np.zeros(shape, np.bool_)
    whole[box] = area
    return {"size": list(shape), "counts": _run_lengths(whole)}


def _run_lengths(area: NDArray[np.bool_]) -> list[int]:
    """Return the lengths of runs outside and inside by turns, down one column after the other, as COCO counts."""
    values = area.ravel(order="F")
    changes = np.flatnonzero(np.diff(values)) + 1
    # The first run is one of zeros, of length 0 where the first pixel lies inside.
    starts = [0, *([0] if values[0] else []), *changes.tolist(), values.size]
    lengths: list[int] = np.diff(starts).tolist()
    return lengths
