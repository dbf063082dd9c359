"""Draw masks over their images, and measure how much of the image each class covers.

The palette and the outline of every picture of this project are defined here. The module needs NumPy and Pillow only,
because the client imports it on machines without torch and DALI.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_pipeline.image_file import open_image
from data_pipeline.image_header import ImageError

# The palette of Okabe and Ito, whose colours differ for people with any colour vision. Those that stand out from skin
# and from grey come first.
PALETTE = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
RGB_PROFILE = b"RGB ".rjust(20)  # where an ICC profile names its colours
OPACITY = 0.35
PIXELS_PER_OUTLINE = 250  # an outline gets 1 pixel wider for each so many pixels of the image's shorter side

Mask = NDArray[np.uint8]


def colour_of(index: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class by its index in the mask, from 1 on.

    Class 0 is the background, which is never drawn. The palette repeats after its last colour.
    """
    return PALETTE[(index - 1) % len(PALETTE)]


def open_upright(data: bytes) -> Image.Image:
    """Open a JPEG, PNG or TIFF file as 8-bit RGB, turned upright as the server turns it.

    Grey files of more than 8 bits are stretched from their darkest to their brightest value, because many would look
    black otherwise. Raises OSError for a file that the server would refuse.
    """
    try:
        image = open_image(data)
    except ImageError as error:
        raise OSError(str(error)) from None
    upright = (_stretch(image) if image.mode.startswith(("I", "F")) else image).convert("RGB")
    # Pillow writes it into every file that is made of the image. One of grey or of inks is not allowed there.
    if (upright.info.get("icc_profile") or RGB_PROFILE)[16:20] != b"RGB ":
        del upright.info["icc_profile"]
    return upright


def fit_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Resize a mask of class indices to an image's size by nearest neighbour.

    Args:
        mask: (S, S) class indices.
        size: (width, height) of the image, as Pillow gives it.

    Returns:
        (height, width) class indices.
    """
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def draw(image: Image.Image, mask: Mask) -> Image.Image:
    """Return a copy of an RGB image with each class of its mask tinted and outlined.

    The mask must have the image's size. The background stays as it is.
    """
    drawn = image.copy()
    # Wider in larger images, so that the outline is still visible when the whole image is shown on a screen.
    edges = outline(mask, max(1, min(mask.shape) // PIXELS_PER_OUTLINE))
    for index in np.unique(mask[mask > 0]).tolist():
        area, colour = mask == index, colour_of(index)
        tinted = Image.blend(image, Image.new("RGB", image.size, colour), OPACITY)
        drawn.paste(tinted, mask=Image.fromarray(area))
        drawn.paste(colour, mask=Image.fromarray(area & edges))
    return drawn


def outline(mask: NDArray[Any], thickness: int) -> NDArray[np.bool_]:
    """Mark the border pixels of all classes, inside the classes.

    A pixel of a class is on the border if the pixel `thickness` up, down, left or right of it has another value. Pixels
    outside of the image do not count, so an area that is cut off by the image's edge stays open there.

    Args:
        mask: (H, W) class indices.
        thickness: width of the outline in pixels, at least 1.

    Returns:
        (H, W) booleans, False in the background.
    """
    edges = np.zeros(mask.shape, np.bool_)
    # One comparison for each axis serves both of its directions: both ends of a pair that differs are on a border.
    for ahead, behind in (((slice(thickness, None),), (slice(-thickness),)),
                          ((slice(None), slice(thickness, None)), (slice(None), slice(-thickness)))):  # fmt: skip
        differs = mask[ahead] != mask[behind]
        edges[ahead] |= differs
        edges[behind] |= differs
    return edges & (mask > 0)


def draw_outlines(pixels: NDArray[np.uint8], mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a copy of the pixels with a 1-pixel outline of each class in its colour.

    Args:
        pixels: (H, W, 3) RGB.
        mask: (H, W) class indices.
    """
    drawn, edges = pixels.copy(), outline(mask, 1)
    for index in np.unique(mask[edges]).tolist():
        drawn[edges & (mask == index)] = colour_of(index)
    return drawn


def areas(mask: Mask, seg_classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Count the pixels of each class but the background, and their percentage of the image."""
    counts = np.bincount(mask.ravel(), minlength=len(seg_classes)).tolist()
    return {
        name: {"pixels": count, "percent": round(100 * count / mask.size, 3)}
        # Not strict: a mask with an index beyond the named classes has more counts than names.
        for name, count in zip(seg_classes[1:], counts[1:], strict=False)
    }


def png(image: Image.Image) -> bytes:
    """Encode an image as a PNG file, favouring speed over size."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _stretch(image: Image.Image) -> Image.Image:
    """Scale the values of a grey image to 0 to 255."""
    values = np.asarray(image, np.float64)
    darkest, span = values.min(), np.ptp(values)
    # `or 1`: an image of one value has no span.
    return Image.fromarray(np.round(255 * (values - darkest) / (span or 1)).astype(np.uint8))
