"""Ask the server about the slices of a volume, and put its answers together: mask, measurements, thickness."""

from deploy.client.volume.process import VolumeResult, process_volume
from deploy.client.volume.slices import drop_slices

__all__ = ["VolumeResult", "drop_slices", "process_volume"]
