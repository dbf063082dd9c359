"""Find what a DICOM header says of one frame, at its top level or in the functional groups of multi-frame objects."""

from typing import Any

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


def slice_spacing(header: Any) -> float | None:
    """Return the millimetres between the frames of a volume, or None where the file does not state them.

    A slice's thickness does not say how far the next one is.
    """
    stated = _number(value_of(header, 0, "SpacingBetweenSlices"))
    return stated if stated is not None else _distance(header)


def _distance(header: Any) -> float | None:
    """Return the distance between the positions of the first two frames."""
    places = [frame_attributes(header, index).get("ImagePositionPatient") for index in (0, 1)]
    if any(not place or len(place) != 3 for place in places):
        return None
    first, second = ([float(value) for value in place or ()] for place in places)
    return sum((b - a) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5 or None


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
