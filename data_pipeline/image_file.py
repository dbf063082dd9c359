"""Hand image files to decoders without doubt about what they are.

DALI crashes on some metadata and takes some TIFF files for others, so it is given JPEG and PNG files alone, with at
most one block of EXIF, which is ours. Ordinary files pass as they are.
"""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_pipeline import orientation as orientations
from data_pipeline.image_header import (
    ADOBE,
    ADOBE_BYTES,
    APP0,
    APP1,
    APP14,
    DAMAGED,
    DOUBTFUL,
    MAX_PIXELS,
    MOST_TEXT,
    PNG_SIGNATURE,
    UNDECODABLE,
    Header,
    ImageError,
    inflated,
    jpeg_segments,
    png_chunks,
    read_header,
)
from data_pipeline.spec import SIXTEEN_BITS
from data_pipeline.tiff import Pixels, TiffError, read_pixels

NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # chunks of a PNG that hold its pixels
PALETTE, TRANSPARENT = 3, {0: 2, 2: 6}  # a type of colour, and bytes of the transparent colour of others
# The first bytes of a JPEG's segments and the least length from which libjpeg, and DALI with it, heeds them.
HEEDED = {APP0: (b"JFIF\0", 14), APP14: (ADOBE, ADOBE_BYTES)}
AFTER_HEADER = 33  # bytes of a PNG's signature and first chunk
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG by type of colour
# The first column and row, and the steps to the next ones, of each pass of a PNG: of an interlaced one there are seven.
WHOLE = ((0, 0, 1, 1),)
PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def decodable(data: bytes, *, max_pixels: int = MAX_PIXELS, white_level: int = SIXTEEN_BITS) -> bytes:
    """Return a file that DALI decodes as it is meant: turned upright, of the right depth and colours.

    Args:
        data: bytes of a JPEG, PNG or TIFF file.
        max_pixels: number of pixels above which a file is refused before it is decoded.
        white_level: what the graph takes for white in files of 16 bits.

    Returns:
        `data` itself where nothing in it is in doubt, else a JPEG or PNG file of the same pixels.

    Raises:
        ImageError: the file is not one that is read.
    """
    header = read_header(data, max_pixels)
    if header.kind == "TIFF":
        return _png_of_tiff(data, header, white_level)
    if not header.metadata and header.orientation == orientations.UPRIGHT:
        return data
    return _with_one_exif(data, header)


def _with_one_exif(data: bytes, header: Header) -> bytes:
    """Replace what a JPEG or PNG says of its orientation by one block of EXIF, or by none where it is upright."""
    upright = header.orientation == orientations.UPRIGHT
    exif = b"" if upright else orientations.exif_of(header.orientation)
    if header.kind == "JPEG":
        body = orientations.EXIF + exif
        ours = b"" if upright else struct.pack(">BBH", 0xFF, APP1, len(body) + 2) + body
        dropped = [(start, end) for marker, start, end in jpeg_segments(data) if marker == APP1]
        return _without(data, dropped, 2, ours)
    ours = b"" if upright else png_chunk(b"eXIf", exif)
    dropped = [(start, end) for kind, start, end in png_chunks(data) if kind in DOUBTFUL]
    return _without(data, dropped, AFTER_HEADER, ours)


def _without(data: bytes, dropped: list[tuple[int, int]], place: int, added: bytes) -> bytes:
    """Leave parts out of a file, and put others at a place before all of these."""
    view = memoryview(data)
    starts, ends = [place, *(end for _, end in dropped)], [*(start for start, _ in dropped), len(data)]
    kept = (view[start:end] for start, end in zip(starts, ends, strict=True))
    return b"".join([view[:place], added, *kept])


def _png_of_tiff(data: bytes, header: Header, white_level: int) -> bytes:
    pixels = _tiff_pixels(data, header)
    if 8 < header.depth < 16:
        # The white level belongs to files of 16 bits. Others have their own white, which the graph is to find there.
        white = 2**header.depth - 1
        pixels = ((pixels.astype(np.uint32) * white_level + white // 2) // white).astype(np.uint16)
    return encode_png(pixels)


def _tiff_pixels(data: bytes, header: Header) -> Pixels:
    """Decode a TIFF file to upright pixels."""
    assert header.directory is not None
    try:
        return read_pixels(data, header.directory)
    except TiffError as error:
        raise ImageError(str(error), "damaged") from error


def open_image(data: bytes) -> Image.Image:
    """Open a JPEG, PNG or TIFF file with Pillow, turned upright as the server turns it.

    Returns:
        The image in the mode of its file: a mode of 16 bits for deep grey files. Deep colours have 8 bits a channel.

    Raises:
        ImageError: the file is not one that is read.
        OSError: the pixels are damaged.
    """
    header = read_header(data)
    if header.kind == "TIFF":
        pixels = _tiff_pixels(data, header)
        if pixels.ndim == 3 and pixels.dtype == np.uint16:
            pixels = (pixels >> (header.depth - 8)).astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(pixels))
    data = _png_for_pillow(data) if header.kind == "PNG" else _jpeg_for_pillow(data)
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels on, of which 100 million are accepted, and of EXIF that is cut.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=(header.kind,))
        return orientations.turn_image(image, header.orientation)
    except UnidentifiedImageError:
        # Its message holds an address in memory.
        raise ImageError(UNDECODABLE, "damaged") from None
    except (SyntaxError, ValueError) as error:
        raise OSError(f"the image is damaged: {error}") from error


def _png_for_pillow(data: bytes) -> bytes:
    """Leave out of a PNG what says nothing of its pixels, over which Pillow gives up where it is damaged."""
    colour, dropped = data[AFTER_HEADER - 8], []
    for kind, start, end in png_chunks(data):
        if kind not in NEEDED and not _is_whole(data[start:end], colour):
            dropped.append((start, end))
    return _without(data, dropped, AFTER_HEADER, b"") if dropped else data


def require_rows(data: bytes) -> None:
    """Raise ImageError where the pixels of a PNG end before its last row, which Pillow fills with 0."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    expected = 0
    for left, top, across, down in PASSES if interlaced else WHOLE:
        columns, rows = -((left - width) // across), -((top - height) // down)
        # Each row begins with the number of its filter.
        expected += rows * (1 + (columns * CHANNELS[colour] * depth + 7) // 8) if columns > 0 and rows > 0 else 0
    bodies = (data[start + 8 : end - 4] for kind, start, end in png_chunks(data) if kind == b"IDAT")
    found = _count_unpacked(b"".join(bodies), expected)
    if found < expected:
        raise ImageError(f"{DAMAGED}its PNG file holds {found:,} of {expected:,} bytes of pixels", "damaged")


def _count_unpacked(packed: bytes, most: int) -> int:
    """Count the bytes that compressed ones unpack to, until there are at least `most`."""
    unpacker, found = zlib.decompressobj(), 0
    try:
        while found < most and (piece := unpacker.decompress(packed, MOST_TEXT)):
            found, packed = found + len(piece), unpacker.unconsumed_tail
    except zlib.error as error:
        raise ImageError(f"{DAMAGED}{error}", "damaged") from None
    return found


def _is_whole(chunk: bytes, colour: int) -> bool:
    """Tell whether a chunk is a PNG's transparency or its profile, and one that every decoder reads."""
    kind, body = chunk[4:8], chunk[8:-4]
    if kind not in (b"tRNS", b"iCCP") or zlib.crc32(kind + body).to_bytes(4, "big") != chunk[-4:]:
        return False
    if kind == b"tRNS":
        return 1 <= len(body) <= 256 if colour == PALETTE else len(body) == TRANSPARENT.get(colour)
    # A byte that names the compression comes before the profile. Pillow gives up over a huge one.
    _, _, profile = body.partition(b"\0")
    return profile[:1] == b"\0" and 0 < len(inflated(profile[1:])) < MOST_TEXT


def _jpeg_for_pillow(data: bytes) -> bytes:
    """Leave out of a JPEG the segments that are too short for libjpeg, over which Pillow gives up."""
    dropped = []
    for marker, start, end in jpeg_segments(data):
        name, least = HEEDED.get(marker, (b"", 0))
        if name and end - start - 4 < least and data[start + 4 : end].startswith(name):
            dropped.append((start, end))
    return _without(data, dropped, 2, b"") if dropped else data


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Make one chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def encode_png(pixels: Pixels, level: int = 0) -> bytes:
    """Encode (H, W) or (H, W, 3) pixels of 8 or 16 bits as a PNG file.

    Args:
        pixels: of the image.
        level: of compression, 0 to 9. None is fastest to write.
    """
    height, width = pixels.shape[:2]
    depth, colour = 8 * pixels.itemsize, 0 if pixels.ndim == 2 else 2
    values = np.ascontiguousarray(pixels.astype(">u2") if depth == 16 else pixels).reshape(height, -1).view(np.uint8)
    # Each row begins with the number of its filter, 0 for none.
    rows = np.zeros((height, 1 + values.shape[1]), np.uint8)
    rows[:, 1:] = values
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), level)
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
