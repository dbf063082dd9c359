"""Make files as other programs write them: with metadata in doubt, as unusual TIFFs, and mutated from a seed."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from data_pipeline.orientation import EXIF, exif_of
from tests.helpers.hostile import png_chunk
from tests.helpers.kinds import JPEG, KINDS, PICTURE, PNG
from tests.helpers.samples import picture

EIGHT = picture(40, 56)
SIXTEEN = EIGHT.astype(np.uint16) * 257 + 3


def with_segments(*bodies: bytes, jpeg: bytes = JPEG) -> bytes:
    """Put APP1 segments at the beginning of a JPEG file."""
    segments = (b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body for body in bodies)
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def with_chunks(*chunks: tuple[bytes, bytes], behind: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """Put chunks before and behind the pixels of a PNG file."""
    before, after = (b"".join(png_chunk(*chunk) for chunk in some) for some in (chunks, behind))
    return PNG[:33] + before + PNG[33:-12] + after + PNG[-12:]


def exif_segment(orientation: int) -> bytes:
    return EXIF + exif_of(orientation)


def xmp(orientation: int) -> bytes:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def raw_profile(orientation: int) -> bytes:
    """Write EXIF as ImageMagick does."""
    block = exif_segment(orientation)
    return b"\nexif\n%8d\n" % len(block) + block.hex().encode() + b"\n"


XMP_SEGMENT = b"http://ns.adobe.com/xap/1.0/\0"
# Files that say several things about how they are turned, with the orientation that counts.
TURNED: dict[str, tuple[bytes, int]] = {
    "jpeg-one-exif": (with_segments(exif_segment(6)), 6),
    "jpeg-two-exif-that-disagree": (with_segments(exif_segment(1), exif_segment(6)), 1),
    "jpeg-two-exif-the-other-way": (with_segments(exif_segment(6), exif_segment(1)), 6),
    "jpeg-three-exif": (with_segments(exif_segment(8), exif_segment(3), exif_segment(2)), 8),
    "jpeg-exif-without-and-with": (with_segments(EXIF + b"MM\0*\0\0\0\x08\0\0\0\0\0\0", exif_segment(6)), 1),
    "jpeg-exif-that-is-cut": (with_segments(exif_segment(6)[:14]), 1),
    "jpeg-exif-of-no-orientation": (with_segments(EXIF + exif_of(9)), 1),
    "jpeg-xmp": (with_segments(XMP_SEGMENT + xmp(6)), 6),
    "jpeg-exif-before-xmp": (with_segments(XMP_SEGMENT + xmp(6), exif_segment(3)), 3),
    "png-one-exif": (with_chunks((b"eXIf", exif_of(6))), 6),
    "png-two-exif-that-disagree": (with_chunks((b"eXIf", exif_of(6)), (b"eXIf", exif_of(1))), 1),
    "png-exif-behind-the-pixels": (with_chunks(behind=((b"eXIf", exif_of(8)),)), 8),
    "png-exif-on-both-sides": (with_chunks((b"eXIf", exif_of(3)), behind=((b"eXIf", exif_of(8)),)), 3),
    "png-xmp": (with_chunks((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))), 6),
    "png-xmp-compressed": (with_chunks((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(5)))), 5),
    "png-raw-profile": (with_chunks((b"tEXt", b"Raw profile type exif\0" + raw_profile(6))), 6),
    "png-raw-profile-compressed": (
        with_chunks((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw_profile(7)))),
        7,
    ),
}


def tiff(values: NDArray[Any], **options: Any) -> bytes:
    """Write a TIFF file with tifffile, which writes kinds that Pillow does not."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def packed(levels: NDArray[np.uint16], bits: int, photometric: int = 1) -> bytes:
    """Write a grey TIFF of samples of any number of bits, each row from a new byte."""
    digits = (levels[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    body = np.packbits(digits.reshape(len(levels), -1).astype(np.uint8), axis=1).tobytes()
    height, width = levels.shape
    short, long = 3, 4
    tags = [(256, short, width), (257, short, height), (258, short, bits), (259, short, 1), (262, short, photometric)]
    tags += [(273, long, 8), (277, short, 1), (278, short, height), (279, long, len(body))]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + directory + bytes(4)


def without_last_segment(data: bytes) -> bytes:
    """Let the directory of a little-endian TIFF file count one tile or strip less than it has."""
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    changed = bytearray(data)
    for start in range(place + 2, place + 2 + 12 * count, 12):
        tag, _, length = struct.unpack_from("<HHI", data, start)
        if tag in (273, 279, 324, 325):
            struct.pack_into("<I", changed, start + 4, length - 1)
    return bytes(changed)


def alpha(values: NDArray[Any]) -> NDArray[Any]:
    """Add a channel of alpha that is half transparent on the left."""
    full = np.iinfo(values.dtype).max
    transparency = np.full(values.shape[:2], full, values.dtype)
    transparency[:, : values.shape[1] // 2] = full // 2
    colours = values[..., None] if values.ndim == 2 else values
    return np.concatenate([colours, transparency[..., None]], axis=2)


def levels(bits: int) -> NDArray[np.uint16]:
    ramp: NDArray[np.uint16] = np.linspace(0, 2**bits - 1, 40 * 56).reshape(40, 56).astype(np.uint16)
    return ramp


def shown(values: NDArray[Any], bits: int) -> NDArray[np.float64]:
    """Return (H, W) or (H, W, 3) values as (H, W, 3) shares of white."""
    shares = values.astype(np.float64) / (2**bits - 1)
    return np.repeat(shares[..., None], 3, axis=2) if shares.ndim == 2 else shares


GREY8, GREY16 = EIGHT[..., 0], SIXTEEN[..., 0]
MAP = np.random.default_rng(5).integers(0, 256, (3, 256)).astype(np.uint16) * 257
# TIFF files by name: how each is made, and its pixels as shares of white.
TIFFS: dict[str, tuple[Callable[[], bytes], NDArray[np.float64]]] = {
    "16 bits, RGB": (lambda: tiff(SIXTEEN, photometric="rgb"), shown(SIXTEEN, 16)),
    "16 bits, RGB in planes": (
        lambda: tiff(SIXTEEN.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        shown(SIXTEEN, 16),
    ),
    "8 bits, RGB in planes": (
        lambda: tiff(EIGHT.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"),
        shown(EIGHT, 8),
    ),
    "8 bits, grey with alpha": (
        lambda: tiff(alpha(GREY8), photometric="minisblack", extrasamples=["unassalpha"]),
        shown(GREY8, 8),
    ),
    "16 bits, grey with alpha": (
        lambda: tiff(alpha(GREY16), photometric="minisblack", extrasamples=["unassalpha"]),
        shown(GREY16, 16),
    ),
    "8 bits, RGB with alpha": (
        lambda: tiff(alpha(EIGHT), photometric="rgb", extrasamples=["unassalpha"]),
        shown(EIGHT, 8),
    ),
    "8 bits, palette": (
        lambda: tiff(GREY8, photometric="palette", colormap=MAP),
        shown((MAP.T >> 8)[GREY8], 8),
    ),
    "8 bits, white is 0": (lambda: tiff(255 - GREY8, photometric="miniswhite"), shown(GREY8, 8)),
    "16 bits, white is 0": (lambda: tiff(65535 - GREY16, photometric="miniswhite"), shown(GREY16, 16)),
    "16 bits, big-endian": (lambda: tiff(SIXTEEN, photometric="rgb", byteorder=">"), shown(SIXTEEN, 16)),
    "16 bits, BigTIFF": (lambda: tiff(SIXTEEN, photometric="rgb", bigtiff=True), shown(SIXTEEN, 16)),
    "16 bits, tiles": (lambda: tiff(SIXTEEN, photometric="rgb", tile=(16, 32)), shown(SIXTEEN, 16)),
    **{
        f"{bits} bits, grey": (partial(packed, levels(bits), bits), shown(levels(bits), bits))
        for bits in (1, 2, 4, 6, 10, 12, 14)
    },
    **{
        f"8 bits, {name} inside": (
            partial(tiff, EIGHT, photometric="rgb", compression=name),
            shown(EIGHT, 8),
        )
        for name in ("lzw", "zlib", "lzma", "png", "zstd", "jpeg2000", "packbits", "lerc")
    },
    "16 bits, JPEG 2000 inside": (
        lambda: tiff(SIXTEEN, photometric="rgb", compression="jpeg2000"),
        shown(SIXTEEN, 16),
    ),
    "16 bits, LZW with a predictor": (
        lambda: tiff(SIXTEEN, photometric="rgb", compression="lzw", predictor=True),
        shown(SIXTEEN, 16),
    ),
}
# TIFF files that are refused, with a part of the reason.
REFUSED_TIFFS: dict[str, tuple[Callable[[], bytes], str]] = {
    "floats": (lambda: tiff(GREY8.astype(np.float32) / 255), "floating point numbers of 32 bits"),
    "halves": (lambda: tiff(GREY8.astype(np.float16)), "floating point numbers of 16 bits"),
    "signed": (lambda: tiff(GREY8.astype(np.int16)), "signed numbers of 16 bits"),
    "signed bytes": (lambda: tiff(GREY8.astype(np.int8)), "signed numbers of 8 bits"),
    "32 bits": (lambda: tiff(GREY8.astype(np.uint32)), "32 bits a channel"),
    "CIELab": (lambda: tiff(EIGHT, photometric="cielab"), "CIELab"),
    "16 bits, RGB multiplied by alpha": (
        lambda: tiff(alpha(SIXTEEN), photometric="rgb", extrasamples=["assocalpha"]),
        "multiplied by alpha",
    ),
    "grey multiplied by alpha": (
        lambda: tiff(alpha(GREY8), photometric="minisblack", extrasamples=["assocalpha"]),
        "multiplied by alpha",
    ),
    "several grey channels": (
        lambda: tiff(EIGHT, photometric="minisblack", planarconfig="contig"),
        "3 grey channels",
    ),
    "a tile is missing": (lambda: without_last_segment(tiff(EIGHT, photometric="rgb", tile=(16, 32))), "missing"),
    "a strip is missing": (lambda: without_last_segment(tiff(EIGHT, photometric="rgb", rowsperstrip=8)), "missing"),
    "a preview first, as cameras write DNG": (lambda: tiff(EIGHT, photometric="rgb", subfiletype=1), "a preview"),
    "planes that readers see differently": (
        # The tag as one byte, which some writers give it: tifffile then takes the pixels for planes.
        lambda: tiff(EIGHT, photometric="rgb", tile=(16, 32)).replace(
            struct.pack("<HHII", 284, 3, 1, 1), struct.pack("<HHII", 284, 1, 1, 1)
        ),
        "could not be decoded",
    ),
}
ORIGINALS: dict[str, bytes] = {
    **{name: make() for name, make in KINDS.items() if name not in ("20000x10",)},
    **{name: data for name, (data, _) in TURNED.items()},
    **{name: make() for name, (make, _) in TIFFS.items()},
    **{name: make() for name, (make, _) in REFUSED_TIFFS.items()},
}


def mutated(originals: Sequence[bytes], seed: int) -> bytes:
    """Change, drop, double or overwrite bytes of one of the files, half of the time in its first 200 bytes."""
    generator = np.random.default_rng(seed)
    data = bytearray(originals[int(generator.integers(len(originals)))])
    for _ in range(int(generator.integers(1, 6))):
        reach = min(len(data), 200) if generator.random() < 0.5 else len(data)
        place = int(generator.integers(max(reach, 1)))
        match generator.integers(5):
            case 0:
                data[place : place + 1] = generator.bytes(1)
            case 1:
                del data[place : place + int(generator.integers(1, 32))]
            case 2:
                data[place:place] = data[place : place + int(generator.integers(1, 64))]
            case 3:
                data[place : place + 4] = generator.bytes(4)
            case _:
                data[place : place + 1] = bytes([data[place] ^ (1 << int(generator.integers(8)))]) if data else b""
    return bytes(data)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def without_adobe(jpeg: bytes) -> bytes:
    """Leave out the segment by which a JPEG tells what its channels are."""
    start = jpeg.index(b"\xff\xee")
    return jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


DICOM = "dicom, sent to a server as it is"  # which the client and training read
# Files of formats that are not read, with the name that the refusal gives them.
OTHERS: dict[str, tuple[bytes, str]] = {
    "gif": (encode(PICTURE.quantize(8), "GIF"), "GIF"),
    "bmp": (encode(PICTURE, "BMP"), "BMP"),
    "webp": (encode(PICTURE, "WEBP"), "WebP"),
    "jp2": (encode(PICTURE, "JPEG2000"), "JPEG 2000"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
    DICOM: (bytes(128) + b"DICM" + bytes(40), "DICOM"),
    "jpeg-four-channels": (without_adobe(encode(PICTURE.convert("CMYK"), "JPEG")), "four channels"),
    "jpeg-12-bit": (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), "JPEG of 12 bits"),
    "jpeg-lossless": (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc3\0\x11\x10"), "lossless JPEG of 16 bits"),
}
