"""Ask the server about the slices of a volume, and put its answers together: mask, measurements, thickness."""

from deploy.client.volume.process import VolumeResult, process_volume

__all__ = ["VolumeResult", "process_volume"]
