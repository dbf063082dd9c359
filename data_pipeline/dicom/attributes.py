"""Find what a DICOM header says of one frame, at its top level or in the functional groups of multi-frame objects."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Sequences of the functional groups whose items describe a frame's values and geometry.
GROUPS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "OphthalmicFrameLocationSequence",
)
SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
Pair = tuple[float, float]
Triple = tuple[float, float, float]
# Of distances that are meant to be equal, and of the unit vectors of directions.
TOLERANCE, PARALLEL = 0.01, 1e-3


def frame_attributes(header: Any, index: int) -> dict[str, Any]:
    """Return the attributes of a frame by keyword: its own, then those shared by all frames, then the top level's.

    Args:
        header: a pydicom Dataset.
        index: number of the frame, from 0.
    """
    found: dict[str, Any] = {}
    groups = [*(header.get(SHARED) or [])[:1], *(header.get(PER_FRAME) or [])[index : index + 1]]
    for group in groups:
        for name in GROUPS:
            for item in (group.get(name) or [])[:1]:
                found |= {element.keyword: element.value for element in item if element.keyword}
    return found


def value_of(header: Any, index: int, keyword: str) -> Any:
    """Return an attribute of a frame, or None where it is nowhere or empty."""
    value = frame_attributes(header, index).get(keyword, header.get(keyword))
    return None if value is None or value == "" else value


def pixel_spacing(header: Any) -> Pair | None:
    """Return the millimetres between rows and between columns, or None where the first frame does not state them.

    Only what was measured in the plane of the image counts, and not what an imager's detector has.
    """
    return _pair(value_of(header, 0, "PixelSpacing"))


def volume_spacing(header: Any, frames: int) -> tuple[Triple | None, str]:
    """Return the millimetres between rows, columns and frames of a volume, or None and why no volume can be measured.

    Frames must be parallel, of one pixel size and equally far from each other. A slice's thickness does not say how far
    the next one is.
    """
    pairs = [_pair(value_of(header, index, "PixelSpacing")) for index in range(frames)]
    if pairs[0] is None or None in pairs:
        return None, "the file does not state the size of its pixels"
    if not np.allclose(np.array(pairs, np.float64), pairs[0], rtol=TOLERANCE, atol=0):
        return None, "pixels differ in size from frame to frame"
    stated = _number(value_of(header, 0, "SpacingBetweenSlices"))
    steps, why = _steps(header, frames)
    if why:
        return None, why
    measured = steps if stated is None else np.append(steps, abs(stated))
    if not measured.size:
        return None, "the file does not state how far its frames are from each other"
    step = float(measured[-1])
    if not step or not np.allclose(measured, step, rtol=TOLERANCE, atol=0):
        return None, "frames are not equally far from each other"
    return (*pairs[0], step), ""


def _steps(header: Any, frames: int) -> tuple[NDArray[np.float64], str]:
    """Return the distances between neighbouring frames, none where positions are not stated, or why there are none."""
    # One at the top level alone is that of the whole stack.
    places = [_vector(frame_attributes(header, index).get("ImagePositionPatient"), 3) for index in range(frames)]
    directions = [_vector(value_of(header, index, "ImageOrientationPatient"), 6) for index in range(frames)]
    if any(one is None for one in (*places, *directions)):
        return np.zeros(0), ""
    rows = np.array(directions)
    if not np.allclose(rows, rows[0], atol=PARALLEL):
        return np.zeros(0), "frames are not parallel to each other"
    normal = np.cross(rows[0, :3], rows[0, 3:])
    steps = np.diff(np.array(places) @ normal / (np.linalg.norm(normal) or 1.0))
    # Of one sign, or frames would lie between others.
    return (abs(steps), "") if (steps > 0).all() or (steps < 0).all() else (np.zeros(0), "frames are not in order")


def _vector(value: Any, length: int) -> list[float] | None:
    numbers = [_number(one) for one in value] if isinstance(value, Iterable) and not isinstance(value, str) else []
    return [one for one in numbers if one is not None] if len(numbers) == length and None not in numbers else None


def _pair(value: Any) -> Pair | None:
    if value is None or isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
        return None
    row, column = (_number(one) for one in value)
    return None if row is None or column is None else (row, column)


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None
