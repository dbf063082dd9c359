"""Make DICOM files of known pixels: the classes that dermatology and ophthalmology use."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSES = {
    "photograph": ("1.2.840.10008.5.1.4.1.1.77.1.4", "XC"),  # VL photographic
    "dermoscopy": ("1.2.840.10008.5.1.4.1.1.77.1.7", "DMS"),
    "fundus": ("1.2.840.10008.5.1.4.1.1.77.1.5.1", "OP"),  # ophthalmic photography, 8 bits
    "fundus16": ("1.2.840.10008.5.1.4.1.1.77.1.5.2", "OP"),
    "oct": ("1.2.840.10008.5.1.4.1.1.77.1.5.4", "OPT"),  # ophthalmic tomography, multi-frame
    "capture": ("1.2.840.10008.5.1.4.1.1.7", "OT"),
    "capture_frames": ("1.2.840.10008.5.1.4.1.1.7.2", "OT"),  # multi-frame grayscale byte
    "capture_colour_frames": ("1.2.840.10008.5.1.4.1.1.7.4", "OT"),
}
PATIENT = "Doe^Jane"


def make_dicom(
    path: Path,
    kind: str,
    pixels: NDArray[Any],
    *,
    bits: int | None = None,
    spacing: tuple[float, float] | None = None,
    slice_mm: float | None = None,
    **attributes: Any,
) -> Path:
    """Write a file whose frames hold `pixels`.

    Args:
        path: where to write.
        kind: one of `CLASSES`.
        pixels: (H, W), (H, W, 3), (N, H, W) or (N, H, W, 3), of bytes or 16 bits.
        bits: stored, by default all.
        spacing: millimetres between rows and columns.
        slice_mm: millimetres between frames.
        attributes: more of them, by keyword. None removes one.
    """
    sop_class, modality = CLASSES[kind]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    file.PatientName, file.PatientID, file.PatientBirthDate, file.PatientSex = PATIENT, "12345", "19700101", "F"
    file.StudyInstanceUID, file.SeriesInstanceUID, file.Modality = generate_uid(), generate_uid(), modality
    file.StudyDate, file.StudyTime, file.AccessionNumber, file.StudyID = "20250101", "120000", "A1", "1"
    file.ReferringPhysicianName, file.SeriesNumber, file.InstanceNumber = "", 1, 1
    file.Manufacturer, file.ManufacturerModelName, file.DeviceSerialNumber, file.SoftwareVersions = "M", "X", "1", "1"
    file.ContentDate, file.ContentTime = "20250101", "120000"
    file.AcquisitionDateTime = "20250101120000"
    _fill_pixels(file, pixels, bits)
    _fill_geometry(file, kind, spacing, slice_mm)
    for keyword, value in attributes.items():
        if value is None:
            delattr(file, keyword)
        else:
            setattr(file, keyword, value)
    file.save_as(path, enforce_file_format=True)
    return path


def _fill_pixels(file: Dataset, pixels: NDArray[Any], bits: int | None) -> None:
    colour = pixels.shape[-1] == 3
    frames = pixels.ndim - 2 - colour
    file.SamplesPerPixel = 3 if colour else 1
    file.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        file.PlanarConfiguration = 0
    file.Rows, file.Columns = pixels.shape[frames], pixels.shape[frames + 1]
    file.BitsAllocated = 8 * pixels.dtype.itemsize
    file.BitsStored = bits or file.BitsAllocated
    file.HighBit, file.PixelRepresentation = file.BitsStored - 1, int(pixels.dtype.kind == "i")
    if frames:
        file.NumberOfFrames = pixels.shape[0]
    file.PixelData = np.ascontiguousarray(pixels).tobytes()


def _fill_geometry(file: Dataset, kind: str, spacing: tuple[float, float] | None, slice_mm: float | None) -> None:
    if kind != "oct":
        if spacing:
            file.PixelSpacing = list(spacing)
        if slice_mm:
            file.SpacingBetweenSlices = slice_mm
        return
    file.FrameOfReferenceUID = generate_uid()
    measures = Dataset()
    measures.PixelSpacing = list(spacing or (0.004, 0.012))
    measures.SliceThickness = slice_mm or 0.05
    if slice_mm:
        measures.SpacingBetweenSlices = slice_mm
    orientation = Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    file.SharedFunctionalGroupsSequence = Sequence([shared])
    file.PerFrameFunctionalGroupsSequence = Sequence([_frame(index, slice_mm or 0.05) for index in range(_count(file))])


def _frame(index: int, slice_mm: float) -> Dataset:
    position, frame = Dataset(), Dataset()
    position.ImagePositionPatient = [0, 0, round(index * slice_mm, 6)]
    frame.PlanePositionSequence = Sequence([position])
    return frame


def _count(file: Dataset) -> int:
    return int(file.get("NumberOfFrames") or 1)
