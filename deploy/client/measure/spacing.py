"""Say how large a pixel is, where an image file or a person states it, and refuse what cannot be true."""

import math
from dataclasses import dataclass
from fractions import Fraction

from data_pipeline.tiff import read_resolution

INCH_MM = 25.4
# Of a pixel, in millimetres: microscopes of the retina lie above the first, photographs of skin below the second.
LEAST_MM, MOST_MM = 1e-5, 2.0
# Of what a whole image shows. A body's skin, and an eye with what lies around it.
MOST_EXTENT_MM, MOST_EYE_MM = 500.0, 100.0
# Resolutions that programs write where nobody has measured anything: those of screens, printers and cameras, and one
# pixel a millimetre. Other units and rounded fractions make numbers beside them.
PRINTED_DPI = (1, 25.4, 72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 240, 300, 314, 350, 360, 400, 600, 1200, 2400)
SAME_DPI = 1e-3


class SpacingError(ValueError):
    """Report in one line that a stated size of the pixels cannot be true."""


@dataclass(frozen=True, kw_only=True)
class Spacing:
    """Hold the distances between pixels.

    row_mm: from one row to the next, in millimetres.
    column_mm: from one column to the next.
    source: where it is stated.
    """

    row_mm: float
    column_mm: float
    source: str

    @property
    def pixel_mm2(self) -> float:
        """Return the area of one pixel in square millimetres."""
        return self.row_mm * self.column_mm


def check_spacing(spacing: Spacing, width: int, height: int, *, eye: bool = False) -> Spacing:
    """Return a spacing that is plausible for an image, or raise SpacingError.

    Args:
        spacing: as it is stated.
        width: of the image in pixels.
        height: of the same.
        eye: whether the image shows an eye, which is smaller than a body.
    """
    for distance in (spacing.row_mm, spacing.column_mm):
        # NaN is refused as well.
        if not LEAST_MM <= distance <= MOST_MM:
            raise SpacingError(f"{spacing.source} says {distance:g} mm a pixel, which is not plausible")
    extent, most = max(spacing.row_mm * height, spacing.column_mm * width), MOST_EYE_MM if eye else MOST_EXTENT_MM
    if extent > most:
        what = "an eye" if eye else "a body's skin or an eye"
        raise SpacingError(f"{spacing.source} makes this image {extent:.0f} mm wide, which is too large for {what}")
    return spacing


def tiff_spacing(data: bytes) -> Spacing | None:
    """Return the spacing that a TIFF file states, or None where it states none or that of a printer.

    Raises SpacingError where the numbers are none.
    """
    resolution = read_resolution(data)
    if resolution is None:
        return None
    columns, rows, unit_mm = resolution
    if not rows or not columns:
        raise SpacingError("the TIFF file's resolution is 0")
    if _is_printed(rows, unit_mm) and _is_printed(columns, unit_mm):
        return None
    return Spacing(row_mm=_step(rows, unit_mm), column_mm=_step(columns, unit_mm), source="the TIFF file's resolution")


def _is_printed(resolution: Fraction, unit_mm: float) -> bool:
    return any(math.isclose(float(resolution) * INCH_MM / unit_mm, dpi, rel_tol=SAME_DPI) for dpi in PRINTED_DPI)


def _step(resolution: Fraction, unit_mm: float) -> float:
    return float(unit_mm / resolution)
