"""Read what the values of one mask mean: palettes, colours, black and white, class indices, or doubt."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, UnidentifiedImageError

from data_pipeline.image_file import open_image, require_rows
from data_pipeline.image_header import DAMAGED, MAX_PIXELS, ImageError, png_chunks, read_header
from data_pipeline.tiff import FAX, LOSSLESS, WHITE_IS_ZERO, Directory, TiffError, extra_range, has_more_pages

MAX_CLASSES = 64
RULES = "masks.json"  # in a data folder, says how to read its masks
GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L")
DARK, BRIGHT = 63, 192  # a JPEG's black and white, with the ripples of its compression
MOST_BETWEEN = 0.05  # share of a JPEG's pixels that may lie between, along the outlines
# An even area of a third grey lies at least so far from black and white. Along an outline no 3x3 pixels are as even.
THIRD_GREY, EVEN = 24, 20
INVERTED = (
    "masks whose tags or palette call 0 white, as tifffile writes True for black and ImageJ an inverting LUT: save "
    f"them of 8 bits without it and with the lesion in 255, or put what they show into {RULES}, "
    '{"threshold": 128} where the lesion is white or {"colours": {"#000000": 1, "#ffffff": 0}} where it is black'
)
PAGES = "masks of several pages: save the one that is meant alone"
LEAST_EVEN = 0.1  # share of an index mask's pixels above 0 that lie in areas of 3x3 pixels of one value
SHOWN = 6  # values that a refusal lists

Values = NDArray[np.int32]


@dataclass(frozen=True)
class MaskRules:
    """Say how to read masks whose own values leave it open.

    threshold: value from which on a grey mask shows the class 1, or None.
    colours: class of each colour, as 0xRRGGBB, or None.
    """

    threshold: int | None = None
    colours: dict[int, int] | None = None


@dataclass(frozen=True)
class Indices:
    """Hold the class indices of a mask.

    values: (H, W), which may be larger than any class.
    black_white: whether class 1 is what the file shows in white.
    """

    values: Values
    black_white: bool = False


class MaskError(Exception):
    """Report a mask whose meaning is in doubt.

    kind: what is in doubt, in the plural, by which masks are counted, with what to do.
    found: the values of this one.
    """

    def __init__(self, kind: str, found: str) -> None:
        super().__init__(f"{kind} ({found})")
        self.kind, self.found = kind, found


@dataclass(frozen=True, kw_only=True)
class _Mask:
    """Hold a mask as its file has it.

    image: upright, in the mode of its file.
    depth: bits a channel.
    lossy: whether its compression may have changed values.
    inverted: whether its writer may have meant the opposite of what it shows.
    """

    image: Image.Image
    depth: int
    lossy: bool
    inverted: bool = False


def read_indices(data: bytes, rules: MaskRules) -> Indices:
    """Read the class indices of a mask file, turned upright.

    Raises:
        MaskError: it is in doubt what the values mean.
        ImageError: the file is not one that is read, or is damaged.
    """
    mask = _open(data)
    image = mask.image
    _refuse_alpha(image)
    if rules.colours is not None:
        return Indices(_by_colour(image, rules.colours))
    if rules.threshold is not None:
        values = _grey_values(image)
        _refuse_emptied(values, mask, rules.threshold)
        return Indices((values >= rules.threshold).astype(np.int32))
    if mask.inverted or _has_inverting_palette(image):
        found = "a TIFF of PhotometricInterpretation 0" if mask.inverted else "a palette from 255 to 0"
        raise MaskError(INVERTED, found)
    if image.mode == "P":
        return _by_palette(image)
    values = _grey_values(image)
    if mask.lossy:
        return _of_lossy(values, mask.depth)
    few = 1 < mask.depth < 8 and image.mode == "L"
    return _of_few_bits(values, mask.depth) if few else _of_grey(values, mask.depth)


def _open(data: bytes) -> _Mask:
    """Open a mask and decode its pixels."""
    try:
        return _open_read(data)
    except ImageError as error:
        if error.reason != "not_an_image":
            raise
        # Masks may also be of other formats that Pillow reads and that keep their values: GIF and BMP.
        return _Mask(image=_open_other(data, error), depth=8, lossy=False)


def _open_read(data: bytes) -> _Mask:
    """Open a JPEG, PNG or TIFF file."""
    header = read_header(data)
    if header.directory is not None:
        try:
            extra = extra_range(data, header.directory)
            pages = has_more_pages(data)
        except TiffError as error:
            raise ImageError(str(error), "damaged") from None
        if extra is not None and extra[0] < extra[1]:
            raise _transparent("a TIFF", *extra)
        if pages:
            raise MaskError(PAGES, "a TIFF")
    if header.kind == "PNG":
        # A frame beside the first picture, which may also be one that no animation shows.
        if any(kind == b"fdAT" for kind, _, _ in png_chunks(data)):
            raise MaskError(PAGES, "an animated PNG")
        require_rows(data)
    try:
        image = open_image(data)
        image.load()
    except OSError as error:
        raise ImageError(f"{DAMAGED}{error}", "damaged") from None
    if header.depth > 8 and image.mode not in GREY_MODES:
        # Their low bits, in which small indices lie, are not read.
        kind = "masks of more than 8 bits in colour or with alpha: save them in grey, or of 8 bits"
        raise MaskError(kind, f"{header.kind} of {header.depth} bits a channel")
    tiff = header.directory is not None and header.directory.compression not in LOSSLESS
    inverted = header.directory is not None and _may_be_inverted(header.directory)
    return _Mask(image=image, depth=header.depth, lossy=tiff or header.kind == "JPEG", inverted=inverted)


def _may_be_inverted(page: Directory) -> bool:
    """Tell whether the writer of a mask may have meant the opposite of what its tags say.

    tifffile, and scikit-image and imageio with it, write arrays of bool in this way and read 1 as True again, where all
    others show black. ImageJ writes masks of any depth so when their display is inverted, and means the lesion by 255.
    None of them writes the codes of fax machines, whose files do mean what they say.
    """
    return page.photometric == WHITE_IS_ZERO and page.compression not in FAX


def _has_inverting_palette(image: Image.Image) -> bool:
    """Tell whether a palette falls from white over greys to black, as ImageJ writes an inverted display.

    One of white and black alone is how GIF and BMP files of 1 bit are written, and means what it shows.
    """
    if image.mode != "P":
        return False
    palette = np.reshape(image.getpalette() or [], (-1, 3))
    grey = palette[:, 0]
    falls = len(grey) > 2 and grey[0] == 255 and grey[-1] == 0 and (np.diff(grey) < 0).all()
    return bool(falls and (palette == grey[:, None]).all())


def _open_other(data: bytes, unknown: ImageError) -> Image.Image:
    """Open a GIF or BMP file, or raise ImageError or MaskError."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of images from 89 million pixels on.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=("GIF", "BMP"))
            if image.width * image.height > MAX_PIXELS:
                message = f"the image has {image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS:,}"
                raise ImageError(message, "too_many_pixels")
            if getattr(image, "is_animated", False):
                raise MaskError(PAGES, "an animated GIF")
            image.load()
    except UnidentifiedImageError:
        raise unknown from None
    # What Pillow raises for damaged files: no class of its own covers them.
    except (OSError, SyntaxError, ValueError, LookupError, Image.DecompressionBombError) as error:
        raise ImageError(f"{DAMAGED}{' '.join(str(error).split())}", "damaged") from None
    return image


def _refuse_alpha(image: Image.Image) -> None:
    if "transparency" in image.info and image.mode in GREY_MODES:
        # One value is transparent. Pillow does not convert all of these modes.
        alpha = (np.asarray(image) != image.info["transparency"]).astype(np.uint8) * 255
    elif "transparency" in image.info or image.mode in ("LA", "RGBA", "PA"):
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    else:
        return
    if alpha.min() < alpha.max():
        raise _transparent(image.mode, int(alpha.min()), int(alpha.max()))


def _transparent(what: str, least: int, most: int) -> MaskError:
    kind = "masks whose transparency varies: save the shape itself in grey, 0 and 255, without an alpha channel"
    return MaskError(kind, f"{what} with alpha from {least} to {most}")


def _grey_values(image: Image.Image) -> Values:
    """Return the values of a mask without colour, or raise MaskError."""
    if image.mode in GREY_MODES:
        # Of one bit, 1 is white.
        return np.asarray(image).astype(np.int32) * (255 if image.mode == "1" else 1)
    colours = np.asarray(image.convert("RGB")).astype(np.int32)
    if (colours != colours[..., :1]).any():
        packed = colours @ np.array([65536, 256, 1])
        raise MaskError(
            f'masks in colour: list the class of each colour in {RULES}, {{"colours": {{"#000000": 0, ...}}}}',
            _shares(packed, lambda value: f"#{value:06x}"),
        )
    return np.asarray(colours[..., 0])


def _by_colour(image: Image.Image, colours: dict[int, int]) -> Values:
    packed = np.asarray(image.convert("RGB")).astype(np.int32) @ np.array([65536, 256, 1])
    known = np.array(sorted(colours))
    places = np.minimum(np.searchsorted(known, packed), len(known) - 1)
    if (known[places] != packed).any():
        others = packed[known[places] != packed]
        raise MaskError(f"masks with colours that {RULES} does not list", _shares(others, lambda v: f"#{v:06x}"))
    classes: Values = np.array([colours[int(colour)] for colour in known], np.int32)
    return np.asarray(classes[places])


def _refuse_emptied(values: Values, mask: _Mask, threshold: int) -> None:
    """Raise MaskError where a threshold leaves nothing of what looks like class indices, or like one grey.

    Noise, and a soft shape that is darker than the threshold, do make an empty mask.
    """
    largest = int(values.max())
    if not 0 < largest < threshold:
        return
    if mask.lossy:
        areas = _has_third_grey(_of_bytes(values, mask.depth))
    else:
        indices = largest < MAX_CLASSES or len(np.unique(values)) <= 2
        areas = indices and _share_of_areas(values) >= LEAST_EVEN
    if areas:
        kind = (
            f"masks that the threshold of {RULES} leaves empty though they show areas: save all masks as 0 and 255, or "
            "choose a threshold that their values reach, and save what is to be empty as 0"
        )
        found = f"largest value {largest} lies below the threshold {threshold}: {_shares(values, str)}"
        raise MaskError(kind, found)


def _share_of_areas(values: Values) -> float:
    """Return the share of the pixels above 0 that lie in areas of 3x3 pixels of one value, as few of noise do."""
    image, shape = Image.fromarray(values), values > 0
    low, high = (np.asarray(image.filter(one)) for one in (ImageFilter.MinFilter(3), ImageFilter.MaxFilter(3)))
    middles = Image.fromarray(((low == high) & shape).astype(np.uint8))
    return float(np.asarray(middles.filter(ImageFilter.MaxFilter(3)))[shape].mean())


def _of_white(white: NDArray[np.bool_]) -> Indices:
    """Return what is white as class 1. Without any white, black is the background whichever way it is read."""
    return Indices(white.astype(np.int32), black_white=bool(white.any()))


def _by_palette(image: Image.Image) -> Indices:
    """Read a palette by its indices or as black and white, where it is certain which of them is meant."""
    indices = np.asarray(image).astype(np.int32)
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    grey = rgb[..., 0]
    palette = np.reshape(image.getpalette() or [255, 255, 255], (-1, 3))
    if (rgb == grey[..., None]).all() and (grey == indices).all():
        return _of_grey(grey, 8)
    # Index 0 is black, and nothing else is: then the indices may be classes, as in PASCAL VOC.
    dark = (rgb == 0).all(axis=2)
    classes = not palette[0].any() and (dark == (indices == 0)).all() and indices.max() < MAX_CLASSES
    # Where the colours are black and white, that is what may be meant. A palette of no others leaves no doubt.
    shape = np.isin(rgb, (0, 255)).all() and (rgb == grey[..., None]).all()
    alone = bool(np.isin(palette, (0, 255)).all() and (palette == palette[:, :1]).all())
    if shape and (alone or not classes):
        return _of_white(grey > 0)
    # White as index 1 among other colours is class 1 by both.
    if classes and (not shape or np.array_equal(indices, grey > 0)):
        return Indices(indices)
    packed = rgb @ np.array([65536, 256, 1])
    raise MaskError(
        f'masks with a palette whose indices may be no classes: list its colours in {RULES}, {{"colours": ...}}',
        _shares(packed, lambda value: f"#{value:06x}"),
    )


def _advised(values: Values, depth: int) -> str:
    """Return the rule that takes half of a file's white for the threshold, also where 16 bits hold values of 8."""
    return f'put {{"threshold": {2 ** (depth - 1) if values.max() > 255 else 128}}} into {RULES}'


def _of_bytes(values: Values, depth: int) -> Values:
    """Scale values of more than 8 bits to bytes, where they are larger than bytes."""
    return values >> (depth - 8) if values.max() > 255 else values


def _of_lossy(values: Values, depth: int) -> Indices:
    """Read a mask of black and white whose compression, as that of a JPEG, has blurred both."""
    found, values = values, _of_bytes(values, depth)
    between = float(((values > DARK) & (values < BRIGHT)).mean())
    bright = values > 127
    # All dark and yet not black: indices, which the compression has changed.
    if between > MOST_BETWEEN or (not bright.any() and values.any()) or _has_third_grey(values):
        raise MaskError(
            "JPEG masks, or of another lossy compression, that are not black and white: save them as PNG, "
            f"or {_advised(found, depth)}",
            _shares(found, str),
        )
    return _of_white(bright)


def _has_third_grey(values: Values) -> bool:
    """Tell whether an area of a lossy mask is neither black nor white, as that of a third class."""
    image = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    filters = (ImageFilter.MinFilter(3), ImageFilter.MaxFilter(3))
    low, high = (np.asarray(image.filter(one)).astype(np.int32) for one in filters)
    return bool(((high - low <= EVEN) & (low > THIRD_GREY) & (high < 255 - THIRD_GREY)).any())


def _of_few_bits(values: Values, depth: int) -> Indices:
    """Read a grey mask of 2 to 7 bits, which decoders stretch to 255, by the values that it stores."""
    white = 2**depth - 1
    stored: Values = (values * white + 254) // 255
    found = set(np.unique(stored).tolist())
    if found <= {0, white} and white in found:
        if white >= MAX_CLASSES:
            return _of_white(stored > 0)
        # White, or the last class.
        raise MaskError(
            "masks of 2 to 6 bits in black and white alone: save them of 8 bits", f"0 and {white} of {depth} bits"
        )
    return _of_grey(stored, depth)


def _of_grey(values: Values, depth: int) -> Indices:
    """Read a mask of 0 and 255 (or 65535) or of class indices, or raise MaskError for anything else."""
    found = set(np.unique(values).tolist())
    if found <= {0, 255} or found <= {0, 65535}:
        return _of_white(values > 0)
    if max(found) < MAX_CLASSES:
        return Indices(values)
    if max(found - {255}) < MAX_CLASSES:
        kind = (
            "masks with indices with 255 for void: give these pixels a class, "
            f'or list all in {RULES}, {{"colours": {{"#ffffff": 0, ...}}}}'
        )
    else:
        advice = _advised(values, depth)
        kind = f"masks with values that are neither 0 and 255 nor class indices below 64: {advice}"
    raise MaskError(kind, _shares(values, str))


def _shares(values: Values, name: Callable[[int], str]) -> str:
    """List the most frequent values with their shares of the pixels."""
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shares = [f"{name(int(found[i]))} in {100 * counts[i] / values.size:.3g} %" for i in order[:SHOWN]]
    return ", ".join(shares) + (f" and {len(found) - SHOWN} more values" if len(found) > SHOWN else "")
