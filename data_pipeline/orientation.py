"""Read how an image file is to be turned, and turn pixels and Pillow images by it.

The server, training, masks and pictures all ask here, so that an image is turned everywhere or nowhere.
"""

import re
import struct
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"  # what these blocks of a JPEG begin with
UPRIGHT = 1
ORIENTATION = 274  # number of the tag, in EXIF as in TIFF
TAG, SHORT, LONG = 12, 3, 4  # bytes of a directory's entry, and the types of its values
IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Array = TypeVar("Array", bound=NDArray[np.generic])


def of_exif(block: bytes) -> int | None:
    """Return the orientation, 1 to 8, that a block of EXIF states, or None where it states none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 10:
        return None
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    for entry in _entries(block, start, order):
        tag, kind = struct.unpack_from(f"{order}HH", entry)
        if tag == ORIENTATION and kind in (SHORT, LONG):
            (value,) = struct.unpack_from(f"{order}{'H' if kind == SHORT else 'I'}", entry, 8)
            return value if 1 <= value <= 8 else UPRIGHT
    return None


def _entries(block: bytes, start: int, order: str) -> Iterator[bytes]:
    """Yield the entries of the first directory, as far as the block goes."""
    if start + 2 <= len(block):
        (count,) = struct.unpack_from(f"{order}H", block, start)
        ends = range(start + 2 + TAG, min(start + 2 + TAG * count, len(block)) + 1, TAG)
        yield from (block[end - TAG : end] for end in ends)


def of_xmp(text: bytes) -> int | None:
    """Return the orientation, 1 to 8, that a text of XMP states, or None where it states none."""
    stated = IN_XMP.search(text)
    if stated is None:
        return None
    return int(stated[1]) if 1 <= int(stated[1]) <= 8 else UPRIGHT


def of_raw_profile(text: bytes) -> int | None:
    """Return the orientation of a profile as ImageMagick writes it into PNG files: name, length, then hexadecimal."""
    lines = text.split(b"\n")
    digits = b"".join(lines[3:]).translate(None, b" \r\t")
    if len(digits) % 2 or re.fullmatch(rb"[0-9a-fA-F]+", digits) is None:
        return None
    return of_exif(bytes.fromhex(digits.decode("ascii")).removeprefix(EXIF))


def exif_of(orientation: int) -> bytes:
    """Make a block of EXIF that holds an orientation and nothing else."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, ORIENTATION, SHORT, 1, orientation, 0, 0)


def is_on_its_side(orientation: int) -> bool:
    """Tell whether the turn exchanges width and height."""
    return orientation >= 5


def turn_pixels(pixels: Array, orientation: int) -> Array:
    """Return (H, W, ...) pixels turned upright, as a view."""
    turned: NDArray[np.generic] = pixels
    if is_on_its_side(orientation):
        turned = turned.swapaxes(0, 1)
    # After the exchange of the axes: 6 and 7 mirror the columns, 7 and 8 the rows.
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    return turned  # type: ignore[return-value]


def turn_image(image: Image.Image, orientation: int) -> Image.Image:
    """Return a Pillow image turned upright."""
    return image.transpose(TRANSPOSES[orientation]) if orientation in TRANSPOSES else image
