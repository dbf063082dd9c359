"""Read volumes (MetaImage, NIfTI, NRRD, multi-frame DICOM) slice by slice, and write masks in the same geometry.

Needs the extra `volumes` (SimpleITK) or `dicom`, which are imported where the first such file is met.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dicom import DicomImage, Frame, is_dicom, open_dicom, read_frames, volume_spacing
from data_pipeline.dicom.file import quiet, why_not_importable
from data_pipeline.fields import shown
from data_pipeline.files import whole_file
from data_pipeline.image_header import DAMAGED, MAX_PIXELS, ImageError
from data_pipeline.volume_header import Stated, check_volume

# Endings of volumes, with those of the masks that are written: a header of a file of its own would be half a volume.
ENDINGS = {".mhd": ".mha", ".mha": ".mha", ".nii.gz": ".nii.gz", ".nii": ".nii", ".nrrd": ".nrrd", ".nhdr": ".nrrd"}
MISSING = "a volume needs SimpleITK: pip install 'resformer-deploy[volumes]'"
SIGNATURE = 132  # bytes that tell a DICOM file from others
DIRECT = (np.uint8, np.uint16)


@dataclass(kw_only=True)
class Volume:
    """Hold a volume of grey slices.

    slices: how many.
    width: of a slice in pixels.
    height: of the same.
    spacing: millimetres between rows, columns and slices, or None where the file does not state them.
    image: SimpleITK's image, or None where it is a DICOM file's or was let go.
    geometry: SimpleITK's spacing, origin and direction, or None.
    header: pydicom's Dataset, or None.
    notes: what a reader should know about its values, a line each.
    scale: of the values of an image whose type no picture has: black and white.
    """

    slices: int
    width: int
    height: int
    spacing: tuple[float, float, float] | None
    image: Any = None
    geometry: tuple[tuple[float, ...], ...] | None = None
    header: Any = None
    notes: list[str] = field(default_factory=list)
    scale: tuple[float, float] | None = None


def ending_of(file: Path) -> str:
    """Return the ending by which a file is a volume, or an empty text."""
    return next((ending for ending in ENDINGS if file.name.lower().endswith(ending)), "")


def is_volume(file: Path) -> bool:
    """Tell whether a file holds a volume, by its ending or, of a DICOM file, by its number of frames."""
    if ending_of(file):
        return True
    try:
        # First, because reading a named pipe might never end.
        if not file.is_file():
            return False
        with file.open("rb") as opened:
            return is_dicom(opened.read(SIGNATURE)) and _frames(file) > 1
    except OSError:
        return False


def _frames(file: Path) -> int:
    if why_not_importable():
        return 1
    import pydicom

    try:
        with quiet():
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
            return int(header.get("NumberOfFrames") or 1)
    # Whatever is wrong with it is said when it is opened as an image.
    except Exception:
        return 1


def open_volume(file: Path) -> Volume:
    """Open a volume.

    Raises:
        ImageError: it is none, or of a kind that is not read. The message is one line.
        OSError: the file cannot be read.
    """
    if ending_of(file):
        return _open_image(file)
    image = open_dicom(file)
    spacing, why = volume_spacing(image.header, image.frames)
    return Volume(
        slices=image.frames,
        width=image.width,
        height=image.height,
        spacing=spacing,
        header=image.header,
        notes=[f"no mm³: {why}"] if why else [],
    )


def _open_image(file: Path) -> Volume:
    try:
        import SimpleITK
    except ModuleNotFoundError:
        raise ImageError(MISSING, "not_an_image") from None
    stated = check_volume(file)
    # ITK prints warnings of its own, which no option of a command asks for.
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = SimpleITK.ReadImage(str(file))
    except RuntimeError:
        raise ImageError(f"{DAMAGED}the volume cannot be read", "damaged") from None
    values = SimpleITK.GetArrayViewFromImage(image)
    if values.ndim != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ImageError(
            f"a volume of the shape {values.shape} is not read: three axes of grey values are", "not_an_image"
        )
    count, height, width = values.shape
    if not values.size or width * height > MAX_PIXELS:
        raise ImageError(f"the volume has {count} slices of {width} x {height} pixels", "not_an_image")
    spacing, why = _spacing_of(image, stated)
    scale, notes = _scale_of(values)
    return Volume(
        slices=count,
        width=width,
        height=height,
        spacing=spacing,
        image=image,
        geometry=(image.GetSpacing(), image.GetOrigin(), image.GetDirection()),
        scale=scale,
        notes=[*notes, f"no mm³: {why}"] if why else notes,
    )


def _spacing_of(image: Any, stated: Stated) -> tuple[tuple[float, float, float] | None, str]:
    """Return the millimetres between rows, columns and slices of SimpleITK's image, or why there are none."""
    across, down, through = (float(step) for step in image.GetSpacing())
    if not stated.whole:
        return None, "the volume does not state its spacing in all directions"
    # What no file states is 1 to its readers.
    if (across, down, through) == (1.0, 1.0, 1.0):
        return None, "a spacing of exactly 1 in all directions is taken for one that nobody has stated"
    if (unit := stated.millimetres) is None:
        return None, f"the volume states its spacing in a unit that is not known ({shown(stated.unit)})"
    return (unit * down, unit * across, unit * through), ""


def _scale_of(values: NDArray[Any]) -> tuple[tuple[float, float] | None, list[str]]:
    """Return black and white of values that no picture holds as they are, and a note that says so.

    Raises ImageError where some are not finite.
    """
    if values.dtype in DIRECT:
        return None, []
    if values.dtype.kind == "f" and (bad := int(np.count_nonzero(~np.isfinite(values)))):
        raise ImageError(f"the volume holds {bad} NaN or infinities", "damaged")
    low, high = float(values.min()), float(values.max())
    return (low, high if high > low else low + 1), [
        f"values of {values.dtype} from {low:g} to {high:g} are shown from black to white"
    ]


def slices_of(volume: Volume) -> Iterator[Frame]:
    """Yield the slices of a volume as pictures, one after the other.

    Raises ImageError where the pixels are damaged.
    """
    if volume.header is not None:
        yield from read_frames(dicom_image_of(volume))
        return
    import SimpleITK

    for values in SimpleITK.GetArrayViewFromImage(volume.image):
        if volume.scale is None:
            # Of 16 bits they are as training reads them from a file of 16 bits.
            yield Frame(values, int(np.iinfo(values.dtype).max), stated=values.dtype == np.uint8)
        else:
            low, high = volume.scale
            shares = (values.astype(np.float64) - low) / (high - low)
            yield Frame(np.rint(65535 * shares).astype(np.uint16), 65535)


def dicom_image_of(volume: Volume) -> DicomImage:
    """Return the DICOM image that a volume was opened from."""
    return DicomImage(header=volume.header, frames=volume.slices, width=volume.width, height=volume.height)


def write_mask(volume: Volume, mask: NDArray[np.uint8], path: Path) -> None:
    """Write a mask (N, H, W) with the geometry of the volume that it belongs to, whole or not at all.

    Args:
        volume: one of SimpleITK's.
        mask: class indices.
        path: where to write. Its ending says the format.

    Raises:
        OSError: the file cannot be written.
    """
    import SimpleITK

    image = SimpleITK.GetImageFromArray(mask)
    assert volume.geometry is not None
    spacing, origin, direction = volume.geometry
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    with whole_file(path, ending_of(path)) as temporary:
        try:
            SimpleITK.WriteImage(image, str(temporary), useCompression=True)
            del image
            # Read again, because ITK's writers do not notice a full disk.
            read = SimpleITK.ReadImage(str(temporary))
            whole = np.array_equal(SimpleITK.GetArrayViewFromImage(read), mask)
        except RuntimeError:
            whole = False
        if not whole:
            raise OSError(f"{path} cannot be written: the disk may be full")
