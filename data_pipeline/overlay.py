"""The mask drawn over its image, and how much of the image each class covers."""

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# Okabe and Ito's palette, told apart with any colour vision; those that stand out from skin and from grey first.
PALETTE = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
OPACITY = 0.35
# An outline is 1 pixel wide per so many pixels of the image's shorter side.
PIXELS_PER_OUTLINE = 250

Mask = NDArray[np.uint8]


def colour_of(index: int) -> tuple[int, int, int]:
    """RGB of a class by its index in the mask; 1 is the first that is drawn, 0 is background and has none."""
    return PALETTE[(index - 1) % len(PALETTE)]


def open_upright(data: bytes) -> Image.Image:
    """An image file as 8-bit RGB, turned as its EXIF says, as the server decodes it.  OSError where Pillow cannot.

    Greys of more than 8 bits are stretched from their darkest to their brightest value, else many would show black.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return (_stretched(image) if image.mode.startswith(("I", "F")) else image).convert("RGB")


def fit_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """(S, S) class indices as (height, width) ones for an image of `size` (width, height), by nearest neighbour."""
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def draw(image: Image.Image, mask: Mask) -> Image.Image:
    """An RGB image with each class but the background tinted and outlined; `mask` has the image's size."""
    drawn = image.copy()
    edges = outline(mask, max(1, min(mask.shape) // PIXELS_PER_OUTLINE))
    for index in np.unique(mask[mask > 0]).tolist():
        area, colour = mask == index, colour_of(index)
        tinted = Image.blend(image, Image.new("RGB", image.size, colour), OPACITY)
        drawn.paste(tinted, mask=Image.fromarray(area))
        drawn.paste(colour, mask=Image.fromarray(area & edges))
    return drawn


def outline(mask: NDArray[Any], thickness: int) -> NDArray[np.bool_]:
    """(H, W): pixels of a class from which another value lies `thickness` pixels away, up, down, left or right."""
    edges = np.zeros(mask.shape, np.bool_)
    for ahead, behind in (((slice(thickness, None),), (slice(-thickness),)),
                          ((slice(None), slice(thickness, None)), (slice(None), slice(-thickness)))):  # fmt: skip
        differs = mask[ahead] != mask[behind]
        edges[ahead] |= differs
        edges[behind] |= differs
    return edges & (mask > 0)


def draw_outlines(pixels: NDArray[np.uint8], mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a copy of (H, W, 3) pixels with the border pixels of each class of (H, W) `mask` in its colour."""
    drawn = pixels.copy()
    for index in np.unique(mask[mask > 0]).tolist():
        drawn[outline(mask, 1) & (mask == index)] = colour_of(index)
    return drawn


def areas(mask: Mask, seg_classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """How many pixels and how much percent of the image each class but the background covers."""
    counts = np.bincount(mask.ravel(), minlength=len(seg_classes)).tolist()
    return {
        name: {"pixels": count, "percent": round(100 * count / mask.size, 3)}
        for name, count in zip(seg_classes[1:], counts[1:], strict=False)
    }


def png(image: Image.Image) -> bytes:
    """The image as a PNG file, packed quickly rather than tightly."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _stretched(image: Image.Image) -> Image.Image:
    values = np.asarray(image, np.float64)
    darkest, span = values.min(), np.ptp(values)
    return Image.fromarray(np.round(255 * (values - darkest) / (span or 1)).astype(np.uint8))
