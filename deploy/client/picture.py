"""Read one image as it is sent, and say how large its pixels are."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.dicom import frame_png, is_dicom, open_dicom, pixel_spacing, read_frames
from data_pipeline.fields import as_line
from data_pipeline.image_header import ImageError
from deploy.client.measure import Spacing, SpacingError, check_spacing, tiff_spacing
from deploy.client.plan import read_regular
from deploy.contract import Contract

EYES = ("OP", "OPT", "OPM", "OPTENF", "OPTBSV")  # modalities whose images show an eye
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Picture:
    """Hold what is sent of one image.

    data: the bytes of a JPEG, PNG or TIFF file.
    header: pydicom's Dataset where the file is a DICOM image.
    """

    data: bytes
    header: Any = None


class Claims:
    """Keep two files of one DICOM object from being answered twice.

    Threads may share one.
    """

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}
        self._lock = threading.Lock()

    def take(self, header: Any, file: Path) -> None:
        """Take the object of a header for a file, or raise ImageError where another file has it."""
        with self._lock:
            first = self._files.setdefault(str(header.get("SOPInstanceUID") or file), file)
        if first != file:
            raise ImageError(f"the same DICOM object as {as_line(str(first))}, which is answered", "not_an_image")

    def release(self, file: Path) -> None:
        """Give back what a file has taken, because it gives no answer and another file of the object may."""
        with self._lock:
            self._files = {uid: owner for uid, owner in self._files.items() if owner != file}


def read_picture(file: Path, contract: Contract, claims: Claims) -> Picture:
    """Read an image file. Of a DICOM image, a PNG file is made.

    Raises OSError where the file cannot be read, and ImageError where it is DICOM and holds no image that is read.
    """
    data = read_regular(file)
    if not is_dicom(data):
        return Picture(data)
    image = open_dicom(data)
    if image.frames > 1:
        raise ImageError(f"the DICOM file holds {image.frames} frames, where one image is expected", "not_an_image")
    frame = next(read_frames(image))
    # Not before: a file that cannot be decoded must not stand in the way of another one of the same object.
    claims.take(image.header, file)
    return Picture(frame_png(frame, contract.preprocessing.white_level), image.header)


def find_spacing(picture: Picture, size: tuple[int, int], pixel_mm: float | None) -> tuple[Spacing | None, list[str]]:
    """Return the size of an image's pixels where it is stated and plausible, and a note where it is not plausible."""
    width, height = size
    eye = picture.header is not None and str(picture.header.get("Modality", "")) in EYES
    try:
        spacing = _stated(picture, pixel_mm)
        return (check_spacing(spacing, width, height, eye=eye) if spacing else None), []
    except SpacingError as error:
        return None, [f"no mm²: {error}"]


def _stated(picture: Picture, pixel_mm: float | None) -> Spacing | None:
    if pixel_mm is not None:
        return Spacing(row_mm=pixel_mm, column_mm=pixel_mm, source="--spacing")
    if picture.header is not None:
        pair = pixel_spacing(picture.header)
        return Spacing(row_mm=pair[0], column_mm=pair[1], source="the DICOM file's PixelSpacing") if pair else None
    return tiff_spacing(picture.data) if picture.data[:4] in TIFF else None
