"""Generate the image that the server's health check and its warm-up send."""

import io

from PIL import Image


def sample_image() -> bytes:
    """Return a small JPEG file, the same each time."""
    file = io.BytesIO()
    # Without noise the file stays small, and its decoding is as quick as decoding gets.
    Image.linear_gradient("L").convert("RGB").save(file, "JPEG")
    return file.getvalue()
