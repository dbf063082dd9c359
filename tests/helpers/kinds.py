"""Provide one file of every kind that is read and of every kind that is refused, for training and serving."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.helpers.samples import picture

PICTURE = Image.fromarray(picture(75, 110))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def sixteen_bits() -> Image.Image:
    ramp = np.linspace(0, 65535, 60 * 90).reshape(60, 90)
    return Image.fromarray(ramp.astype(np.uint16))


def twelve_bits(levels: NDArray[np.uint16]) -> bytes:
    """Encode a grey TIFF of 12 bits a sample, which Pillow reads but cannot write."""
    # Two samples take three bytes.
    high, low = levels[:, 0::2], levels[:, 1::2]
    packed: bytes = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], axis=2).astype(np.uint8).tobytes()
    height, width = levels.shape
    short, long = 3, 4
    # Width, height, bits, no compression, black is zero, then offset, channels, rows and bytes of the one strip.
    tags = [(256, short, width), (257, short, height), (258, short, 12), (259, short, 1), (262, short, 1)]
    tags += [(273, long, 8), (277, short, 1), (278, short, height), (279, long, len(packed))]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + directory + bytes(4)


def bomb() -> bytes:
    """Encode a PNG of a few hundred bytes whose header claims 60000 x 60000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(10000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


KINDS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encode(PICTURE, "JPEG", quality=92),
    "jpeg-progressive": lambda: encode(PICTURE, "JPEG", progressive=True),
    "jpeg-cmyk": lambda: encode(PICTURE.convert("CMYK"), "JPEG"),
    "jpeg-grey": lambda: encode(PICTURE.convert("L"), "JPEG"),
    "jpeg-exif-6": lambda: encode(PICTURE, "JPEG", exif=turned(6)),
    "jpeg-exif-3": lambda: encode(PICTURE, "JPEG", exif=turned(3)),
    "png": lambda: encode(PICTURE, "PNG"),
    "png-rgba": lambda: encode(PICTURE.convert("RGBA"), "PNG"),
    "png-palette": lambda: encode(PICTURE.quantize(64), "PNG"),
    "png-1-bit": lambda: encode(PICTURE.convert("1"), "PNG"),
    "png-16-bit": lambda: encode(sixteen_bits(), "PNG"),
    "tiff": lambda: encode(PICTURE, "TIFF"),
    "tiff-lzw": lambda: encode(PICTURE, "TIFF", compression="tiff_lzw"),
    "tiff-16-bit": lambda: encode(sixteen_bits(), "TIFF"),
    "tiff-12-bit": lambda: twelve_bits(np.linspace(0, 4095, 60 * 90).reshape(60, 90).astype(np.uint16)),
    "tiff-first-of-two-pages": lambda: encode(
        PICTURE, "TIFF", save_all=True, append_images=[Image.new("RGB", (20, 20))]
    ),
    "1x1": lambda: encode(Image.new("RGB", (1, 1), (200, 100, 50)), "PNG"),
    "20000x10": lambda: encode(Image.fromarray(picture(10, 20000)), "PNG"),
    "2000x3": lambda: encode(Image.fromarray(picture(3, 2000)), "PNG"),
}


JPEG, PNG = KINDS["jpeg"](), KINDS["png"]()
BAD = {
    "empty": b"",
    "text": b"This is not an image.",
    "jpeg-cut": JPEG[: len(JPEG) // 2],
    "jpeg-header-only": JPEG[:200],
    "png-cut": PNG[: len(PNG) // 2],
    "png-flipped-byte": PNG[:90] + bytes([PNG[90] ^ 0xFF]) + PNG[91:],
    "gif": encode(PICTURE.quantize(8), "GIF"),
    "tiff-cut": KINDS["tiff"]()[:60],
    "png-bomb": bomb(),
}
