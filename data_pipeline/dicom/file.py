"""Open a DICOM file, and refuse in one line what holds no image that is read."""

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_pipeline.fields import MOST_SHOWN, as_line, shown
from data_pipeline.image_header import DAMAGED, MAX_PIXELS, ImageError

MISSING = "a DICOM file needs more packages: pip install 'resformer-deploy[dicom]'"
# Objects that hold pixels which are no image, or none at all, by the beginning of their class's name.
OTHERS = {
    "Segmentation": "a segmentation",
    "Surface Segmentation": "a segmentation",
    "Encapsulated": "an encapsulated document",
    "Video": "a video",
    "RT ": "data of radiotherapy",
    "Media Storage Directory": "a directory of other files (name its folder instead)",
    "Raw Data": "raw data",
    "Real World Value": "a mapping of values",
    "Parametric Map": "a parametric map",
    "Waveform": "waveforms",
}
REPORTS = (" SR", "Structured Report", "Key Object")
VIDEOS = ("MPEG", "HEVC", "H.264", "H.265")
JPEG_EXTENDED, RLE = "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.5"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT")
GREYS = ("MONOCHROME1", "MONOCHROME2")
CHANNELS = {**dict.fromkeys(COLOURS, 3), **dict.fromkeys(GREYS, 1), "PALETTE COLOR": 1}


@dataclass(frozen=True, kw_only=True)
class DicomImage:
    """Hold a file with an image of one or more frames.

    header: pydicom's Dataset, whose pixels are decoded when they are wanted.
    frames: how many it has.
    width: of a frame in pixels.
    height: of the same.
    """

    header: Any
    frames: int
    width: int
    height: int

    @property
    def grey(self) -> bool:
        """Return whether a value is a grey level."""
        return self.header.PhotometricInterpretation in GREYS


def is_dicom(data: bytes) -> bool:
    """Tell whether a file is DICOM, from its first 132 bytes."""
    return data[128:132] == b"DICM"


class _Silence:
    """Silence pydicom from the moment the first thread enters until the last one has left.

    Loggers and filters of warnings belong to the process: a thread that restored them would let the others print.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._restore = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._restore.enter_context(_silenced())
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore.close()


_SILENCE = _Silence()


def quiet() -> AbstractContextManager[None]:
    """Keep pydicom and highdicom from printing values of a header, which may name a patient."""
    return _SILENCE


@contextmanager
def _silenced() -> Iterator[None]:
    # Loggers of their modules hand lines on to these, also those of modules that are imported later.
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [logger.propagate for logger in loggers]
    # Without any handler, Python would print the lines itself.
    nowhere = logging.NullHandler()
    try:
        for logger in loggers:
            logger.propagate = False
            logger.addHandler(nowhere)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.propagate = propagate
            logger.removeHandler(nowhere)


@cache
def why_not_importable() -> str:
    """Import pydicom, and return why that fails, or an empty text.

    Kept, because what is left of a failed import fails in other ways.
    """
    try:
        import pydicom  # noqa: F401
    except ModuleNotFoundError:
        return MISSING
    # It loads packages of others: a broken one, or a folder of the user's that bears a library's name, raises anything.
    except Exception as error:
        return as_line(f"pydicom cannot be imported ({type(error).__name__}: {error})")
    return ""


def open_dicom(source: Path | bytes) -> DicomImage:
    """Read a DICOM file, without decoding its pixels.

    Raises:
        ImageError: it cannot be read, holds no image, or one of a kind that is not read. No value of the header that
            could name a patient is in the message.
        OSError: the file cannot be opened.
    """
    if reason := why_not_importable():
        raise ImageError(reason, "not_an_image")
    import pydicom

    with quiet():
        try:
            header = pydicom.dcmread(io.BytesIO(source) if isinstance(source, bytes) else source)
        except OSError:
            raise
        # What pydicom raises for damaged files has no class of its own, and its words repeat values.
        except Exception:
            raise ImageError(f"{DAMAGED}its DICOM header cannot be read", "damaged") from None
        try:
            return _checked(header)
        except ImageError:
            raise
        except Exception:
            raise ImageError(f"{DAMAGED}values of its DICOM header are wrong", "damaged") from None


def _checked(header: Any) -> DicomImage:
    name, syntax = _class_name(header), header.file_meta.get("TransferSyntaxUID")
    if any(part in name for part in REPORTS):
        raise ImageError(f"a DICOM file of a report ({name}) holds no image", "not_an_image")
    for beginning, kind in OTHERS.items():
        if name.startswith(beginning):
            raise ImageError(f"a DICOM file of {kind} holds no image that is read", "not_an_image")
    if syntax is None:
        raise ImageError(f"{DAMAGED}its DICOM header does not say how the pixels are stored", "damaged")
    if any(part in syntax.name for part in VIDEOS):
        raise ImageError("a DICOM file of a video is not read: export its frames as PNG first", "not_an_image")
    if "PixelData" not in header:
        what = (
            "floating point numbers" if "FloatPixelData" in header or "DoubleFloatPixelData" in header else "no pixels"
        )
        raise ImageError(
            f"a DICOM file of {what} ({name or 'unknown class'}) holds no image that is read", "not_an_image"
        )
    frames = int(header.get("NumberOfFrames") or 1) if header.get("NumberOfFrames") != 0 else 0
    width, height = _whole(header, "Columns"), _whole(header, "Rows")
    if frames < 1 or width < 1 or height < 1:
        raise ImageError(f"the DICOM file has {frames} frames of {width} x {height} pixels", "not_an_image")
    if width * height > MAX_PIXELS:
        message = f"the image has {width} x {height} pixels, more than the limit of {MAX_PIXELS:,}"
        raise ImageError(message, "too_many_pixels")
    _check_values(header)
    _check_decoder(syntax, _whole(header, "BitsStored"))
    if syntax.is_encapsulated and syntax != RLE and bits_beneath(header):
        # Some decoders shift them, and some do not.
        raise ImageError("a DICOM file whose compressed values do not begin at bit 0 is not read", "not_an_image")
    return DicomImage(header=header, frames=frames, width=width, height=height)


def bits_beneath(header: Any) -> int:
    """Return how many bits of a value lie beneath those that are stored: none, but in some old files."""
    stored = int(header.BitsStored)
    return max(int(header.get("HighBit") or stored - 1) + 1 - stored, 0)


def _class_name(header: Any) -> str:
    uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""
    return as_line(str(getattr(uid, "name", uid)))[:MOST_SHOWN]


def _whole(header: Any, keyword: str) -> int:
    value = header.get(keyword)
    if not isinstance(value, int):
        raise ImageError(f"{DAMAGED}its DICOM header has no {keyword}", "damaged")
    return value


def _check_values(header: Any) -> None:
    """Raise ImageError where the values of the pixels are none that are read."""
    colours = str(header.get("PhotometricInterpretation", ""))
    if colours not in CHANNELS:
        raise ImageError(f"a DICOM file of the colours {shown(colours)} is not read", "not_an_image")
    if _whole(header, "SamplesPerPixel") != CHANNELS[colours]:
        raise ImageError(
            f"{DAMAGED}{colours} has {CHANNELS[colours]} values a pixel, not {header.SamplesPerPixel}", "damaged"
        )
    allocated, stored = _whole(header, "BitsAllocated"), _whole(header, "BitsStored")
    if allocated > 16:
        raise ImageError(f"a DICOM file of {allocated} bits a value is not read: 1 to 16 are", "not_an_image")
    if not 1 <= stored <= allocated:
        raise ImageError(f"{DAMAGED}{stored} bits cannot be stored in {allocated}", "damaged")
    if stored + bits_beneath(header) > allocated:
        raise ImageError(f"{DAMAGED}{stored} bits cannot end at bit {header.HighBit} of {allocated}", "damaged")
    if _whole(header, "PixelRepresentation") not in (0, 1):
        raise ImageError(f"{DAMAGED}its DICOM header does not say whether values have a sign", "damaged")


def _check_decoder(syntax: Any, bits: int) -> None:
    """Raise ImageError where no package that is installed decodes the pixels."""
    if not syntax.is_compressed or syntax.is_deflated:
        return
    from pydicom.pixels import get_decoder

    # Of the packages that decode it at 8 bits, one does at 12: it has another licence, so nothing here asks for it.
    if syntax == JPEG_EXTENDED and bits > 8 and find_spec("libjpeg") is None:
        raise ImageError(
            f"a JPEG of {bits} bits inside DICOM needs another package: pip install pylibjpeg-libjpeg", "damaged"
        )
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        message = f"no installed package decodes {syntax.name}: pip install 'resformer-deploy[dicom]'"
        raise ImageError(message, "not_an_image")
