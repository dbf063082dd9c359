"""Measure a mask: areas in pixels and square millimetres, connected components, contours."""

from deploy.client.measure.components import Cleaning, clean, measure
from deploy.client.measure.spacing import Spacing, SpacingError, check_spacing, tiff_spacing

__all__ = ["Cleaning", "Spacing", "SpacingError", "check_spacing", "clean", "measure", "tiff_spacing"]
