"""Turn the frames of a DICOM image into pictures: what its values mean becomes grey or colour, from black to white."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dicom.attributes import value_of
from data_pipeline.dicom.file import DicomImage, bits_beneath, is_dicom, open_dicom, quiet
from data_pipeline.image_file import encode_png
from data_pipeline.image_header import DAMAGED, ImageError
from data_pipeline.spec import SIXTEEN_BITS
from data_pipeline.tiff import Pixels

# Attributes that say what a value means, which pydicom looks for at the top level only.
MODALITY = ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept")
VOI = ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction")


@dataclass(frozen=True)
class Frame:
    """Hold one frame as a picture.

    pixels: (H, W) grey or (H, W, 3) RGB, from 0 for black to `white`.
    white: the value that is white.
    stated: whether the file says so. Where it does not, 16 bits may hold fewer.
    """

    pixels: Pixels
    white: int
    stated: bool = True


def read_frames(image: DicomImage) -> Iterator[Frame]:
    """Yield frames one after the other.

    Modality and VOI tables, or rescaling and windows, are applied where the file has them. MONOCHROME1 is inverted, and
    palettes are looked up.

    Raises ImageError where the pixels are damaged.
    """
    from pydicom.pixels import iter_pixels

    wanted = range(image.frames)
    try:
        with quiet():
            for index, values in zip(wanted, iter_pixels(_as_decoded(image.header), indices=wanted), strict=False):
                yield _picture(values, image.header, index)
    except ImageError:
        raise
    # Decoders raise what they like, and some of it repeats values of the header.
    except Exception as error:
        kind = type(error).__name__
        raise ImageError(f"{DAMAGED}the pixels of its DICOM file could not be decoded ({kind})", "damaged") from None


def _as_decoded(header: Any) -> Any:
    """Return a header by which pydicom keeps all bits up to the highest one that is stored."""
    if not (beneath := bits_beneath(header)):
        return header
    from pydicom import Dataset

    whole = Dataset()
    whole.update(header)
    # Setting an element that is there would change it in the other header too.
    del whole.BitsStored
    whole.file_meta, whole.BitsStored = header.file_meta, header.BitsStored + beneath
    return whole


def _picture(values: NDArray[Any], header: Any, index: int) -> Frame:
    colours = header.PhotometricInterpretation
    if colours == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        looked_up = apply_color_lut(values, header)
        # A table of 8 bits may stand in words of 16.
        white = 2 ** int(header.RedPaletteColorLookupTableDescriptor[2]) - 1
        return Frame(looked_up, white if looked_up.max() <= white else int(np.iinfo(looked_up.dtype).max))
    stored = _stored(values, header)
    if stored.ndim == 3:
        return stored_frame(stored, header)
    return _grey(stored, header, index, inverted=colours == "MONOCHROME1")


def _stored(values: NDArray[Any], header: Any) -> NDArray[Any]:
    """Return values without the bits beside those stored, in which old files hide overlays."""
    low, high = stored_range(header)
    if beneath := bits_beneath(header):
        return values >> beneath
    if values.min() >= low and values.max() <= high:
        return values
    return values & high if low == 0 else np.clip(values, low, high)


def stored_range(header: Any) -> tuple[int, int]:
    """Return the smallest and the largest value that the stored bits can hold."""
    bits = int(header.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if header.PixelRepresentation else (0, 2**bits - 1)


def stored_frame(values: NDArray[Any], header: Any) -> Frame:
    """Return stored values as they are, from the smallest that is possible on."""
    low, high = stored_range(header)
    white = high - low
    return Frame(_whole(values.astype(np.int32) - low, white), white)


def _grey(values: NDArray[Any], header: Any, index: int, *, inverted: bool) -> Frame:
    attributes = _lone(header, index)
    if "VOILUTSequence" in attributes or "WindowWidth" in attributes or "ModalityLUTSequence" in attributes:
        frame = _windowed(values, attributes)
    else:
        frame = stored_frame(values, header)
        # Without a window, a rescaling changes nothing but the direction.
        inverted ^= float(attributes.get("RescaleSlope") or 1) < 0
    return Frame(np.subtract(frame.white, frame.pixels, dtype=frame.pixels.dtype), frame.white) if inverted else frame


def _lone(header: Any, index: int) -> Any:
    """Return a small Dataset with what says how one frame's values are shown."""
    from pydicom import Dataset

    attributes = Dataset()
    # pydicom asks it for the byte order of tables.
    attributes.file_meta = header.file_meta
    for keyword in (*MODALITY, *VOI, "BitsStored", "PixelRepresentation", "PhotometricInterpretation"):
        value = value_of(header, index, keyword)
        if value is not None:
            setattr(attributes, keyword, value)
    # pydicom takes one without the other for a mistake.
    if ("RescaleSlope" in attributes) != ("RescaleIntercept" in attributes):
        attributes.RescaleSlope = attributes.get("RescaleSlope", 1)
        attributes.RescaleIntercept = attributes.get("RescaleIntercept", 0)
    return attributes


def _windowed(values: NDArray[Any], attributes: Any) -> Frame:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    shown = apply_voi_lut(apply_modality_lut(values, attributes), attributes)
    low, high = shown_range(attributes)
    white = 2 ** int(attributes.BitsStored) - 1
    shares = (np.asarray(shown, np.float64) - low) / (high - low)
    return Frame(_whole(np.rint(np.clip(shares, 0, 1) * white), white), white)


def _whole(values: NDArray[Any], white: int) -> Pixels:
    return values.astype(np.uint8) if white <= 255 else values.astype(np.uint16)


def shown_range(attributes: Any) -> tuple[float, float]:
    """Return what pydicom makes of black and of white when it applies the tables or the window of a frame."""
    low, high = (float(value) for value in stored_range(attributes))
    if tables := attributes.get("VOILUTSequence"):
        return 0.0, 2.0 ** tables[0].LUTDescriptor[2] - 1
    if tables := attributes.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** tables[0].LUTDescriptor[2] - 1
    if "RescaleSlope" in attributes:
        slope, intercept = float(attributes.RescaleSlope), float(attributes.RescaleIntercept)
        return low * slope + intercept, high * slope + intercept
    return low, high


def frame_png(frame: Frame, white_level: int = SIXTEEN_BITS) -> bytes:
    """Encode a frame as a PNG file of 8 bits where its white is at most 255, else of 16 with `white_level` as white."""
    if not frame.stated:
        return encode_png(frame.pixels, level=1)
    white, pixels = frame.white, frame.pixels.astype(np.uint32)
    level = 255 if white <= 255 else white_level
    scaled = pixels if white == level else (pixels * level + white // 2) // white
    return encode_png(_whole(scaled, level), level=1)


def picture_file(data: bytes, white_level: int = SIXTEEN_BITS) -> bytes:
    """Return an image file that everything else reads: the file itself or, of a DICOM image, a PNG file.

    Args:
        data: bytes of any file.
        white_level: what is taken for white in files of 16 bits.

    Raises:
        ImageError: it is a DICOM file without an image that is read, or with several frames.
    """
    if not is_dicom(data):
        return data
    image = open_dicom(data)
    if image.frames > 1:
        raise ImageError(f"the DICOM file holds {image.frames} frames, where one image is expected", "not_an_image")
    return frame_png(next(read_frames(image)), white_level)
