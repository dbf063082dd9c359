"""Check an image file by its header, before it is decoded."""

import io
import warnings
from typing import Literal

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "TIFF")
# Numbers of TIFF and EXIF tags.
BITS_PER_SAMPLE = 258
ORIENTATION = 274

Reason = Literal["empty", "not_an_image", "too_many_pixels", "too_many_bytes", "damaged"]


class ImageError(Exception):
    """Report that an image cannot be used.

    The message is one line without paths, so that a server can return it to a client.

    reason: short name of the fault, by which a server counts refused images.
    """

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


def check_header(data: bytes, max_pixels: int) -> None:
    """Raise ImageError unless `data` starts as a JPEG, PNG or TIFF file of at most `max_pixels` pixels.

    Only the header is read, so a small file that claims huge dimensions costs no memory. Whether the rest of the file
    is readable shows only when it is decoded.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes)", "empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns about large files and about cut ones. The former are refused below, the latter by DALI.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        # Pillow itself refuses images above about 179 million pixels, and does not give their size.
        raise ImageError(f"the image has more pixels than the limit of {max_pixels:,}", "too_many_pixels") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        # Pillow's readers raise all of these for files that are not what they seem to be.
        expected = f"expected one {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        raise ImageError(f"not an image: {expected}", "not_an_image") from None
    if width * height > max_pixels:
        raise ImageError(
            f"the image has {width} x {height} pixels, more than the limit of {max_pixels:,}", "too_many_pixels"
        )
