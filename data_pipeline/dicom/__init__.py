"""Read DICOM images: which objects hold one, what their values mean, how large their pixels are.

Needs the extra `dicom`, which is imported where the first such file is met. Training and the client read by the same
functions. The server is sent what comes out: a PNG file.
"""

from data_pipeline.dicom.attributes import frame_attributes, pixel_spacing, volume_spacing
from data_pipeline.dicom.file import DicomImage, is_dicom, open_dicom
from data_pipeline.dicom.picture import Frame, frame_png, picture_file, read_frames

__all__ = [
    "DicomImage",
    "Frame",
    "frame_attributes",
    "frame_png",
    "is_dicom",
    "open_dicom",
    "picture_file",
    "pixel_spacing",
    "read_frames",
    "volume_spacing",
]
