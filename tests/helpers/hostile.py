"""Make files that are no image, or not quite, from good files and a seed."""

import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np

MakeImage = Callable[..., bytes]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Make one chunk of a PNG file: length, kind, body and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 2) -> bytes:
    """Make a PNG file whose header may promise what its rows do not hold."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def bad_images(make_image: MakeImage) -> dict[str, bytes]:
    """Make files by name, each of which must be refused."""
    jpeg, good, tiff = (make_image((90, 70), kind) for kind in ("JPEG", "PNG", "TIFF"))
    return {
        "one zero": b"\0",
        "zeros": bytes(4096),
        "text": b"an image, honestly" * 20,
        "script": b"#!/bin/sh\nrm -rf /\n",
        "html": b"<html><body><img src=x></body></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "gif": b"GIF89a" + struct.pack("<HH", 8, 8) + bytes(64),
        "bmp": b"BM" + bytes(60),
        "zip": b"PK\x03\x04" + bytes(100),
        "pickle": b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        "elf": b"\x7fELF" + bytes(60),
        "jpeg marker alone": b"\xff\xd8",
        "jpeg without scan": jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9",
        "jpeg cut in half": jpeg[: len(jpeg) // 2],
        "jpeg without end of tables": jpeg[:100],
        "jpeg header on png": jpeg[:20] + good,
        "jpeg of no height": with_jpeg_height(jpeg, 0),
        "png signature alone": good[:8],
        "png cut in half": good[: len(good) // 2],
        "png of no width": png(0, 9, b""),
        # 3.6 gigapixels in a file of less than a kilobyte: it must be refused before it is decoded.
        "png that is a bomb": png(60_000, 60_000, bytes(1000)),
        "png of negative width": png(2**32 - 1, 9, b""),
        "png with too few rows": png(64, 64, bytes(3)),
        "png of unknown colour": png(8, 8, bytes(8 * 25), colour=5),
        "png of unknown depth": png(8, 8, bytes(8 * 25), depth=7),
        "png whose data is no zlib": good.replace(good[good.index(b"IDAT") + 4 :][:8], b"\xff" * 8),
        "tiff signature alone": tiff[:8],
        "tiff cut in half": tiff[: len(tiff) // 2],
        "tiff whose directory is itself": b"II*\0\x08\0\0\0" + b"\xff\xff" + bytes(32),
        "tiff whose directory lies outside": b"II*\0" + struct.pack("<I", 2**31) + bytes(32),
    }


def with_jpeg_height(data: bytes, height: int) -> bytes:
    """Change the height that a JPEG file's frame header states."""
    # Behind the marker (2 bytes) stand the segment's length (2) and the sample precision (1).
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">H", height) + data[frame + 7 :]


def fuzzed(make_image: MakeImage, count: int, seed: int) -> Iterator[bytes]:
    """Yield good files with bytes changed, dropped, doubled or overwritten. A few of them are still images."""
    # From a seed, so that a failure can be repeated.
    generator = np.random.default_rng(seed)
    originals = [make_image((48, 40), kind) for kind in ("JPEG", "PNG", "TIFF")]
    for _ in range(count):
        data = bytearray(originals[generator.integers(len(originals))])
        for _ in range(int(generator.integers(1, 9))):
            place = int(generator.integers(len(data)))
            match generator.integers(4):
                case 0:
                    data[place] = int(generator.integers(256))
                case 1:
                    del data[place : place + int(generator.integers(1, 32))]
                case 2:
                    data[place:place] = data[place : place + int(generator.integers(1, 32))]
                case _:
                    data[place : place + 4] = generator.bytes(4)
            if not data:
                break
        yield bytes(data)
