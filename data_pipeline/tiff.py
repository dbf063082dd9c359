"""Read TIFF files: judge the first page by its tags, and decode what is read without doubt to pixels of 8 or 16 bits.

DALI takes several kinds of TIFF for others without a word, so none is handed to it. The tags are read here as well,
because what a decoder makes of an unusual file must be known before it is called.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data_pipeline.orientation import TRANSPOSES, UPRIGHT, is_on_its_side, turn_pixels

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
# Numbers of tags.
KIND = 254
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION = 256, 257, 258, 259, 262, 274
SAMPLES, PLANAR, EXTRA, FORMAT, DEPTH_OF_VOLUME = 277, 284, 338, 339, 32997
TILE_WIDTH, TILE_HEIGHT, STRIP_HEIGHT = 322, 323, 278
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
SEGMENTS = ((273, 279), (324, 325))  # offsets and byte counts of strips, and of tiles
INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}  # type of a value: its code in `struct`
RATIOS = {5: "II"}  # two whole numbers each
# Values of tags.
INCH = 2
UNITS_MM = {INCH: 25.4, 3: 10.0}  # unit of a resolution: its millimetres. 1 is none.
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6
COLOURS = {4: "transparency masks", 8: "CIELab colours", 9: "CIELab colours", 10: "CIELab colours",
           32803: "the raw mosaic of a camera", 32844: "LogL values", 32845: "LogLuv colours"}  # fmt: skip
CHANNELS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, SEPARATED: 4, YCBCR: 3}
UNSIGNED, VOID = 1, 4
FORMATS = {2: "signed numbers", 3: "floating point numbers", 5: "complex numbers", 6: "complex numbers"}
REDUCED = 1  # bit of a page's kind that says that it is a smaller copy of another one
SEPARATE = 2
PREMULTIPLIED = 1
JPEG = 7
# Compressions by who decodes them. libtiff, inside Pillow, knows those of fax machines and old JPEG.
FAX = (2, 3, 4, 32771)
OLD_JPEG = 6
BY_PILLOW = (*FAX, OLD_JPEG)
BY_TIFFFILE = (1, 5, JPEG, 8, 32773, 32946, 33003, 33004, 33005, 34712, 34887, 34892, 34925, 34926, 34927, 34933, 34934,
               50000, 50001, 50002, 52546)  # fmt: skip
# Those that keep every value: of the others, some can do both.
LOSSLESS = (*FAX, 1, 5, 8, 32773, 32946, 34925, 34926, 34933, 50000)
MOST_SEGMENTS = 1_000_000
MOST_TAGS = 4096
MOST_SAMPLES = 16
CONVERT = "convert it to grey or RGB of 8 or 16 bits first"


class TiffError(Exception):
    """Report in one line that a TIFF file cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Directory:
    """Hold what the tags of a page say.

    width: in pixels, as stored.
    height: in pixels, as stored.
    depth: bits a sample.
    samples: values of a pixel, with alpha.
    photometric: what the values mean, as the tag counts.
    compression: as the tag counts.
    separate: whether each sample has a plane of its own.
    premultiplied: whether the colours have been multiplied by alpha.
    orientation: how it is to be turned, 1 to 8.
    """

    width: int
    height: int
    depth: int
    samples: int
    photometric: int
    compression: int
    separate: bool
    premultiplied: bool
    orientation: int

    @property
    def grey(self) -> bool:
        """Tell whether the page has no colour."""
        return self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)


def read_directory(data: bytes) -> Directory:
    """Read and judge the tags of a file's first page, or raise TiffError if it is not read."""
    tags = _read_tags(data)
    one: Callable[[int, int], int] = lambda tag, default: (tags.get(tag) or (default,))[0]  # noqa: E731
    bits, formats = tags.get(BITS) or (1,), tags.get(FORMAT) or (UNSIGNED,)
    photometric, samples = one(PHOTOMETRIC, -1), one(SAMPLES, 1)
    directory = Directory(
        width=one(WIDTH, 0),
        height=one(HEIGHT, 0),
        depth=bits[0],
        samples=samples,
        photometric=photometric,
        compression=one(COMPRESSION, 1),
        separate=one(PLANAR, 1) == SEPARATE and samples > 1,
        premultiplied=PREMULTIPLIED in (tags.get(EXTRA) or ()),
        orientation=_orientation(tags),
    )
    if one(KIND, 0) & REDUCED:
        raise TiffError("a TIFF that holds a preview as its first page is not read: export the image as TIFF or PNG")
    if photometric in COLOURS:
        raise TiffError(f"a TIFF of {COLOURS[photometric]} is not read: {CONVERT}")
    if photometric not in CHANNELS:
        raise TiffError("the image is damaged: the TIFF file does not say what its values mean")
    if strange := [one for one in formats if one not in (UNSIGNED, VOID)]:
        kind = FORMATS.get(strange[0], f"unknown numbers ({strange[0]})")
        raise TiffError(f"a TIFF of {kind} of {bits[0]} bits is not read: {CONVERT}")
    if len(set(bits)) > 1 or not 1 <= bits[0] <= 16:
        raise TiffError(f"a TIFF of {', '.join(map(str, dict.fromkeys(bits)))} bits a channel is not read: {CONVERT}")
    if not CHANNELS[photometric] <= samples <= MOST_SAMPLES:
        raise TiffError(f"a TIFF of {samples} channels is not read: {CONVERT}")
    if one(DEPTH_OF_VOLUME, 1) != 1:
        raise TiffError("a TIFF of a volume is not read: export its slices as pages or files first")
    _check_decoder(directory)
    _check_segments(tags, directory, len(data))
    return directory


def read_resolution(data: bytes) -> tuple[Fraction, Fraction, float] | None:
    """Return the pixels a unit across and down the upright image, and the unit in millimetres.

    It is None where the first page states none.

    Raises TiffError where the header is damaged.
    """
    tags = _read_tags(data, INTEGERS | RATIOS)
    across, down, unit = tags.get(X_RESOLUTION), tags.get(Y_RESOLUTION), (tags.get(RESOLUTION_UNIT) or (INCH,))[0]
    if unit not in UNITS_MM or not across or not down:
        return None
    # The tags speak of the rows that are stored, and some orientations turn these into columns.
    turned = is_on_its_side(_orientation(tags))
    pairs = [Fraction(*pair) if pair[1] else Fraction(0) for pair in ((down, across) if turned else (across, down))]
    return pairs[0], pairs[1], UNITS_MM[unit]


def _orientation(tags: dict[int, tuple[int, ...]]) -> int:
    """Return how a page is to be turned: values that mean nothing are taken for upright, as in EXIF."""
    (stated, *_) = tags.get(ORIENTATION) or (UPRIGHT,)
    return stated if stated in TRANSPOSES else UPRIGHT


def _check_decoder(page: Directory) -> None:
    """Raise TiffError where no library is known to read the page right."""
    if page.compression not in (*BY_PILLOW, *BY_TIFFFILE):
        raise TiffError(f"a TIFF of compression {page.compression} is not read: {CONVERT}")
    if page.photometric == PALETTE and page.depth > 8:
        raise TiffError(f"a TIFF with a palette of {page.depth} bits is not read: {CONVERT}")
    if page.depth > 8 and (_by_pillow(page) or page.photometric == SEPARATED):
        raise TiffError(f"a TIFF of {page.depth} bits a channel in these colours is not read: {CONVERT}")
    if page.premultiplied and (page.depth > 8 or page.grey):
        # Pillow reads these wrong or in fewer bits, and tifffile does not divide by alpha.
        raise TiffError(f"a TIFF of {page.depth} bits whose values are multiplied by alpha is not read: {CONVERT}")
    if page.grey and page.samples > 2:
        raise TiffError(f"a TIFF of {page.samples} grey channels is not read: {CONVERT}")


def _by_pillow(page: Directory) -> bool:
    return page.compression in BY_PILLOW or (page.photometric == YCBCR and page.compression != JPEG)


def _check_segments(tags: dict[int, tuple[int, ...]], page: Directory, length: int) -> None:
    """Raise TiffError where pixels are missing, or a tile claims far more of them than the page has."""
    width, height = (tags.get(TILE_WIDTH) or (0,))[0], (tags.get(TILE_HEIGHT) or (0,))[0]
    if width * height > 4 * (page.width + 512) * (page.height + 512):
        raise TiffError("the image is damaged: a tile of the TIFF file is larger than the image")
    tile = (width or page.width, height or page.height)
    strip = (page.width, (tags.get(STRIP_HEIGHT) or (page.height,))[0] or page.height)
    for (places, sizes), (width, height) in zip(SEGMENTS, (strip, tile), strict=True):
        offsets, counts = tags.get(places), tags.get(sizes)
        if offsets:
            # Uncompressed strips need no byte counts, and very old writers gave none.
            counts = counts or (1,) * len(offsets)
            if any(not 0 < start <= start + count <= length for start, count in zip(offsets, counts, strict=False)):
                raise TiffError("the image is damaged: the TIFF file ends before its pixels")
            planes = page.samples if page.separate else 1
            # Decoders leave the place of a missing one as it is, which is the memory of others.
            if len(offsets) < planes * -(-page.width // max(width, 1)) * -(-page.height // max(height, 1)):
                raise TiffError("the image is damaged: strips or tiles of the TIFF file are missing")
            return
    raise TiffError("the image is damaged: the TIFF file says nowhere where its pixels are")


def _read_tags(data: bytes, types: dict[int, str] = INTEGERS) -> dict[int, tuple[int, ...]]:
    """Return the numbers of each tag of the first page whose type is wanted. The first of repeated tags counts."""
    order, number, size = _codes(data)
    tags: dict[int, tuple[int, ...]] = {}
    (place,) = _unpack(order + size, data, struct.calcsize(f"={size}"))
    (count,) = _unpack(order + number, data, place)
    place += struct.calcsize(f"={number}")
    value = struct.calcsize(f"={size}")
    for start in range(place, place + (4 + 2 * value) * min(count, MOST_TAGS), 4 + 2 * value):
        tag, kind, length = _unpack(f"{order}HH{size}", data, start)
        if kind in types and tag not in tags and 0 < length <= MOST_SEGMENTS:
            code = f"{order}{length * len(types[kind])}{types[kind][0]}"
            # What does not fit into the entry lies elsewhere.
            where = start + 4 + value
            inside = struct.calcsize(code) <= value
            tags[tag] = _unpack(code, data, where if inside else _unpack(order + size, data, where)[0])
    return tags


def has_more_pages(data: bytes) -> bool:
    """Tell whether other pages follow the first one: a stack, a pyramid or a preview.

    Raises TiffError where the header is damaged.
    """
    order, number, size = _codes(data)
    offset = struct.calcsize(f"={size}")
    (place,) = _unpack(order + size, data, offset)
    (count,) = _unpack(order + number, data, place)
    end = place + struct.calcsize(f"={number}") + count * (4 + 2 * offset)
    # Some files end with the first page's tags, without saying that nothing follows.
    return end + offset <= len(data) and _unpack(order + size, data, end) != (0,)


def _codes(data: bytes) -> tuple[str, str, str]:
    """Return a file's byte order, and the codes of its numbers of entries and of its counts and offsets."""
    big = data[2:4] in (b"+\0", b"\0+")
    return "<" if data[:1] == b"I" else ">", *(("Q", "Q") if big else ("H", "I"))


def _unpack(code: str, data: bytes, place: int) -> tuple[int, ...]:
    if place + struct.calcsize(code) > len(data):
        raise TiffError("the image is damaged: the TIFF file ends in its header")
    return struct.unpack_from(code, data, place)


def read_pixels(data: bytes, page: Directory) -> Pixels:
    """Decode the first page to its colours, turned upright and without alpha.

    Args:
        data: the file.
        page: what `read_directory` returned for it.

    Returns:
        (H, W) grey or (H, W, 3) RGB. Pages of up to 8 bits fill uint8, others uint16 with their own values.

    Raises:
        TiffError: the pixels are damaged.
    """
    if _by_pillow(page):
        return _decode_by_pillow(data)
    values, colour_map = _decode_by_tifffile(data, page)
    return turn_pixels(_colours(values, page, colour_map), page.orientation)


def extra_range(data: bytes, page: Directory) -> tuple[int, int] | None:
    """Return the least and the largest value beside the colours of the first page, as of alpha, or None without any.

    Raises TiffError where the pixels are damaged, or such values are not read.
    """
    colours = CHANNELS[page.photometric]
    if page.samples == colours:
        return None
    if _by_pillow(page):
        raise TiffError(f"a TIFF of {page.samples} channels in these colours is not read: {CONVERT}")
    extra = _decode_by_tifffile(data, page)[0][..., colours:]
    return int(extra.min()), int(extra.max())


def _decode_by_pillow(data: bytes) -> Pixels:
    try:
        with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
            # Some versions turn a TIFF when they load it, and then say so.
            upright = ImageOps.exif_transpose(image)
            return np.asarray(upright.convert("L" if upright.mode in ("1", "L") else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise TiffError("the image is damaged: its TIFF file could not be decoded") from error


def _decode_by_tifffile(data: bytes, page: Directory) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the values (H, W, samples) of the first page as they are stored, and its palette."""
    # Here, because their import takes 0.3 s and few data sets hold TIFF files.
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            first = file.pages.first
            if first.planarconfig != 1 + page.separate and page.samples > 1:
                # Writers that give this tag another type are read otherwise there.
                raise ValueError("its planes are in doubt")
            colour_map = first.colormap
            values = np.asarray(first.asarray(maxworkers=1))
    # What tifffile and the codecs raise for damaged files: no class of their own covers them.
    except (ValueError, RuntimeError, OSError, LookupError, TypeError, ArithmeticError, struct.error) as error:
        raise TiffError("the image is damaged: its TIFF file could not be decoded") from error
    return _in_order(values, page), colour_map


def _in_order(values: NDArray[Any], page: Directory) -> NDArray[Any]:
    """Return a page's values as (H, W, samples)."""
    shape = (page.samples, page.height, page.width) if page.separate else (page.height, page.width, page.samples)
    if values.size != np.prod(shape) or values.dtype.kind not in "ub":
        raise TiffError("the image is damaged: its TIFF file decodes to another size")
    ordered = values.reshape(shape)
    if ordered.dtype.kind == "b":
        ordered = ordered.astype(np.uint8)
    return ordered.transpose(1, 2, 0) if page.separate else ordered


def _colours(values: NDArray[Any], page: Directory, colour_map: NDArray[Any] | None) -> Pixels:
    """Return grey or RGB from a page's values (H, W, samples)."""
    white = 2**page.depth - 1
    colours = values[..., : CHANNELS[page.photometric]]
    if page.photometric == PALETTE:
        return _look_up(colours[..., 0], colour_map)
    if page.photometric == SEPARATED:
        return np.asarray(Image.fromarray(np.ascontiguousarray(_fill(colours, white)), "CMYK").convert("RGB"))
    if page.premultiplied and page.samples > CHANNELS[page.photometric]:
        alpha = np.maximum(values[..., CHANNELS[page.photometric], None].astype(np.uint32), 1)
        colours = np.minimum((colours.astype(np.uint32) * white + alpha // 2) // alpha, white)
    if page.photometric == WHITE_IS_ZERO:
        colours = white - colours.astype(np.uint16)
    filled = _fill(colours, white)
    return filled[..., 0] if filled.shape[2] == 1 else filled


def _fill(values: NDArray[Any], white: int) -> Pixels:
    """Scale values of up to 8 bits to bytes, and leave deeper ones as they are."""
    if white > 255:
        return values.astype(np.uint16)
    return values.astype(np.uint8) if white == 255 else (values.astype(np.uint16) * 255 // white).astype(np.uint8)


def _look_up(indices: NDArray[Any], colour_map: NDArray[Any] | None) -> NDArray[np.uint8]:
    """Return the colours (H, W, 3) of a palette's indices."""
    if colour_map is None or colour_map.ndim != 2 or int(indices.max()) >= colour_map.shape[1]:
        raise TiffError("the image is damaged: its TIFF file has no whole palette")
    # Old writers gave bytes where 16 bits were asked for. libtiff tells the two apart in the same way.
    scaled = colour_map if colour_map.max() < 256 else colour_map >> 8
    return np.asarray(scaled.T.astype(np.uint8)[indices])
