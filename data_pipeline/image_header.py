"""Look at an image file before anything decodes it: its format, size, depth and orientation, from its header alone."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from data_pipeline import orientation as orientations
from data_pipeline.tiff import Directory, TiffError, read_directory

MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "TIFF")
EXPECTED = f"expected one {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
DAMAGED = "the image is damaged: "
UNDECODABLE = "the image is damaged or of an unsupported kind: it could not be decoded"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # by type of colour
PNG_GREY = (0, 4)
# Chunks of a PNG that DALI never sees: what turns the image, and an animation, of which it might take another frame.
DOUBTFUL = (b"eXIf", b"acTL", b"fcTL", b"fdAT")
# Markers of a JPEG: those that begin a frame, of which DALI decodes the first three kinds, and those without a length.
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)
ALONE = {0x00, 0x01, *range(0xD0, 0xD9)}
END, SCAN, APP0, APP1, APP14 = 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
ADOBE, ADOBE_BYTES = b"Adobe", 12  # what names a JPEG's colours. Decoders pass over a shorter one.
MOST_TEXT = 1 << 20  # bytes of one text of a PNG: what says how to turn it is far smaller
EASY = "convert it to PNG first, as Pillow can"
RARE = "convert it to PNG first, as imagecodecs can"
# The first attributes of a DICOM file that begins with them, as files of before 1993 and cut ones do.
BARE_DICOM = (
    *(b"\2\0\0\0", b"\2\0\1\0", b"\2\0\2\0", b"\x08\0\0\0", b"\x08\0\1\0", b"\x08\0\5\0"),
    *(b"\x08\0\x08\0", b"\x08\0\x16\0", b"\0\x08\0\0", b"\0\x08\0\5", b"\0\x08\0\x08"),
)
PREAMBLE = "write it anew with one, as dcmconv or pydicom can"
# What other files begin with, by the name of their format and what to do about it.
OTHERS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"GIF8", "GIF", EASY),
    (0, b"BM", "BMP", EASY),
    (8, b"WEBP", "WebP", EASY),
    (0, b"\0\0\0\x0cjP  \r\n", "JPEG 2000", EASY),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000", EASY),
    (0, b"\xff\x0a", "JPEG XL", "convert it to PNG first, as djxl can"),
    (0, b"\0\0\0\x0cJXL \r\n", "JPEG XL", "convert it to PNG first, as djxl can"),
    (4, b"ftypavif", "AVIF", EASY),
    (4, b"ftyphei", "HEIC", "convert it to PNG first, as pillow-heif can"),
    (4, b"ftypmif1", "HEIC", "convert it to PNG first, as pillow-heif can"),
    (
        128,
        b"DICM",
        "DICOM",
        "send it with deploy.client, which reads DICOM, or export it as PNG or TIFF of 8 or 16 bits first",
    ),
    (0, b"8BPS", "Photoshop", EASY),
    (0, b"\0\0\1\0", "ICO", EASY),
    (0, b"%PDF", "PDF", "export its images first"),
    (0, b"\x89HDF", "HDF5", "export its images as PNG or TIFF first"),
    (0, b"ObjectType", "MetaImage", "use retouch:DIR or export its slices as PNG first"),
    (0, b"\x5c\x01\0\0", "NIfTI", "export its slices as PNG first"),
    (0, b"NRRD", "NRRD", "export its slices as PNG first"),
    *((0, b"P%d%s" % (number, space), "PNM", EASY) for number in range(1, 7) for space in (b"\n", b" ")),
    (0, b"v/1\x01", "OpenEXR", "convert it to grey or RGB of 8 or 16 bits first"),
    (0, b"#?RADIANCE", "Radiance HDR", "convert it to grey or RGB of 8 or 16 bits first"),
    (0, b"\x93NUMPY", "a NumPy array", "write it as PNG first, as Pillow can"),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it first"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    *(
        (0, start, "a web page or SVG", "download or draw the image itself")
        for start in (b"<!", b"<h", b"<s", b"<?xml")
    ),
    *((0, start, "DICOM without the preamble of its files", PREAMBLE) for start in BARE_DICOM),
)

Kind = Literal["JPEG", "PNG", "TIFF"]
Reason = Literal["empty", "not_an_image", "too_many_pixels", "too_many_bytes", "damaged"]


class ImageError(Exception):
    """Report that an image cannot be used.

    The message is one line without paths, so that a server can return it to a client.

    reason: short name of the fault, by which a server counts refused images.
    """

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Header:
    """Describe an image file.

    kind: its format.
    width: in pixels, as stored.
    height: in pixels, as stored.
    depth: bits a channel.
    grey: whether it has no colour.
    orientation: how it is to be turned, 1 to 8 as EXIF counts.
    metadata: whether it holds anything that leaves a decoder in doubt: of an orientation, or of an animation.
    directory: the tags of a TIFF's first page, None for other files.
    """

    kind: Kind
    width: int
    height: int
    depth: int
    grey: bool
    orientation: int = orientations.UPRIGHT
    metadata: bool = False
    directory: Directory | None = None

    @property
    def upright_size(self) -> tuple[int, int]:
        """Return (width, height) after the image is turned upright."""
        turned = orientations.is_on_its_side(self.orientation)
        return (self.height, self.width) if turned else (self.width, self.height)


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Read the header of a JPEG, PNG or TIFF file.

    A small file that claims huge dimensions costs no memory. Whether the rest of the file is readable shows only when
    it is decoded.

    Raises:
        ImageError: it is no such file, is of a kind that is not read or has more than `max_pixels` pixels.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes)", "empty")
    if data[:3] == b"\xff\xd8\xff":
        header = _read_jpeg(data)
    elif data[:8] == PNG_SIGNATURE:
        header = _read_png(data)
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        header = _read_tiff(data)
    else:
        raise ImageError(_unknown(data), "not_an_image")
    if header.width * header.height == 0:
        raise ImageError(f"the image has {header.width} x {header.height} pixels", "not_an_image")
    if header.width * header.height > max_pixels:
        raise ImageError(
            f"the image has {header.width} x {header.height} pixels, more than the limit of {max_pixels:,}",
            "too_many_pixels",
        )
    return header


def _unknown(data: bytes) -> str:
    for place, signature, name, advice in OTHERS:
        if data[place : place + len(signature)] == signature:
            return f"not an image that is read: found {name}, {EXPECTED}; {advice}"
    return f"not an image: {EXPECTED}"


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, the start and the end of each segment of a JPEG file before its first scan.

    Raises ImageError where the file ends before.
    """
    place = 2
    while True:
        # Bytes between segments are skipped, as libjpeg does.
        place = data.find(b"\xff", place)
        if place < 0 or place + 4 > len(data):
            raise ImageError(f"{DAMAGED}the JPEG file ends in its header", "damaged")
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker in ALONE:
            place += 2
        elif marker in (SCAN, END):
            yield marker, place, place
            return
        else:
            end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
            if end > len(data) or end < place + 4:
                raise ImageError(f"{DAMAGED}the JPEG file ends in its header", "damaged")
            yield marker, place, end
            place = end


def _read_jpeg(data: bytes) -> Header:
    frame, exif, xmp, metadata, adobe = None, None, None, False, False
    for marker, start, end in jpeg_segments(data):
        if marker in FRAMES and frame is None:
            frame = marker, data[start + 4 : end]
        elif marker == APP14:
            body = data[start + 4 : end]
            adobe = adobe or (body.startswith(ADOBE) and len(body) >= ADOBE_BYTES)
        elif marker == APP1:
            metadata, body = True, data[start + 4 : end]
            # The first of several counts. What follows it is taken by some programs for its continuation.
            if body.startswith(orientations.EXIF):
                exif = body[len(orientations.EXIF) :] if exif is None else exif
            elif xmp is None and body.startswith(orientations.XMP):
                xmp = body
    if frame is None or len(frame[1]) < 6:
        raise ImageError(f"{DAMAGED}the JPEG file has no frame", "damaged")
    depth, height, width, channels = struct.unpack_from(">BHHB", frame[1])
    if frame[0] in LOSSLESS:
        raise ImageError(f"a lossless JPEG of {depth} bits is not read: {RARE}", "damaged")
    if depth != 8:
        raise ImageError(f"a JPEG of {depth} bits a channel is not read: {RARE}", "damaged")
    if channels == 4 and not adobe:
        # Decoders differ: some take the inks for inverted, as Adobe writes them, and some do not.
        raise ImageError("a JPEG of four channels that does not name their colours is not read: " + EASY, "damaged")
    turned = (orientations.of_exif(exif) if exif else None) or (orientations.of_xmp(xmp) if xmp else None)
    return Header(
        kind="JPEG",
        width=width,
        height=height,
        depth=depth,
        grey=channels == 1,
        orientation=turned or orientations.UPRIGHT,
        metadata=metadata,
    )


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, the start and the end of each whole chunk of a PNG file."""
    place = len(PNG_SIGNATURE)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            return
        yield data[place + 4 : place + 8], place, end
        place = end


def _read_png(data: bytes) -> Header:
    if data[12:16] != b"IHDR" or len(data) < 33:
        raise ImageError(f"{DAMAGED}the PNG file has no header", "damaged")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if depth not in PNG_DEPTHS.get(colour, ()):
        raise ImageError(f"{DAMAGED}a PNG has no colour type {colour} of {depth} bits", "damaged")
    before, after, pixels, doubtful, last = None, None, False, False, b""
    others: list[tuple[bytes, bytes]] = []
    for kind, start, end in png_chunks(data):
        doubtful, last = doubtful or kind in DOUBTFUL, kind
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            pixels = True
        elif kind == b"eXIf":
            # The last one before the pixels counts, and one behind them only where there is none.
            body = data[start + 8 : end - 4].removeprefix(orientations.EXIF)
            before, after = (before, body) if pixels else (body, after)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            others.append((kind, data[start + 8 : end - 4]))
    if not pixels or last != b"IEND":
        # DALI takes seconds to give up on a chunk that claims gigabytes.
        raise ImageError(f"{DAMAGED}the PNG file ends before its last chunk", "damaged")
    exif = before if before is not None else after
    turned = (orientations.of_exif(exif) if exif else None) or _of_texts(others) or orientations.UPRIGHT
    return Header(
        kind="PNG",
        width=width,
        height=height,
        depth=depth,
        grey=colour in PNG_GREY,
        orientation=turned,
        metadata=doubtful,
    )


def _of_texts(texts: list[tuple[bytes, bytes]]) -> int | None:
    """Return the orientation that a PNG's texts state: ImageMagick's profile before XMP."""
    profile = xmp = None
    for kind, body in texts:
        keyword, _, rest = body.partition(b"\0")
        if keyword == b"Raw profile type exif":
            profile = orientations.of_raw_profile(rest if kind == b"tEXt" else inflated(rest[1:]))
        elif keyword == b"XML:com.adobe.xmp" and kind == b"iTXt":
            # Two bytes tell whether the text is compressed, then come a language and a translated keyword.
            text = rest[2:].split(b"\0", 2)[-1]
            xmp = orientations.of_xmp(inflated(text) if rest[:1] == b"\1" else text)
    return profile or xmp


def inflated(body: bytes) -> bytes:
    """Unpack a compressed text of a PNG, at most `MOST_TEXT` bytes of it, or return nothing where it is damaged."""
    try:
        return zlib.decompressobj().decompress(body, MOST_TEXT)
    except zlib.error:
        # A text that cannot be read says nothing about the image.
        return b""


def _read_tiff(data: bytes) -> Header:
    try:
        directory = read_directory(data)
    except TiffError as error:
        raise ImageError(str(error), "damaged") from None
    return Header(
        kind="TIFF",
        width=directory.width,
        height=directory.height,
        depth=directory.depth,
        grey=directory.grey,
        orientation=directory.orientation,
        metadata=True,
        directory=directory,
    )
