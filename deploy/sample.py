"""A generated image: what the server's health check and its warm-up send."""

import io

from PIL import Image


def sample_image() -> bytes:
    """A small JPEG file, the same each time."""
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "JPEG")
    return file.getvalue()
