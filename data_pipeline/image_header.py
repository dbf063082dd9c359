"""What can be said of an image file before it is decoded."""

import io
import warnings
from typing import Literal

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "TIFF")


Reason = Literal["empty", "not_an_image", "too_many_pixels", "too_many_bytes", "damaged"]


class ImageError(Exception):
    """An image that cannot be used; one line without paths, fit to be shown to a client; reason: to count it by."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


def check_header(data: bytes, max_pixels: int) -> None:
    """Raises ImageError unless `data` begins as an image of a known format with 1 to `max_pixels` pixels."""
    if not data:
        raise ImageError("the image is empty (0 bytes)", "empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL warns of large and of cut files; both are judged here or by DALI
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        raise ImageError(f"the image has more pixels than the limit of {max_pixels:,}", "too_many_pixels") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        expected = f"expected one {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
        raise ImageError(f"not an image: {expected}", "not_an_image") from None
    if width * height > max_pixels:
        raise ImageError(
            f"the image has {width} x {height} pixels, more than the limit of {max_pixels:,}", "too_many_pixels"
        )
