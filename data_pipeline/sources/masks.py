"""Masks of any common kind -> 8-bit grey PNG of class indices in the cache, converted once."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.progress import track

from data_pipeline.files import write_whole
from data_pipeline.sources.pairing import Problems

MAX_CLASSES = 64
GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "F")


@dataclass
class Converted:
    """files: by stem, the mask to use.  highest: largest index.  grey: no image has colour.  problems: by kind."""

    files: dict[str, Path] = field(default_factory=dict)
    highest: int = 0
    grey: bool = True
    problems: Problems = field(default_factory=dict)


def convert_masks(pairs: dict[str, tuple[Path, Path]], cache: Path, classes: int = MAX_CLASSES) -> Converted:
    """Checks each (image, mask) pair by stem and writes the mask's indices; a second call only reads headers.

    Masks hold indices below `classes`, or 0 and 255 for a single class, in 1, 8 or 16 bits, grey or palette. A file
    that cannot be read is left as it is, for the scan to report.
    """
    result = Converted()
    for stem, (image, mask) in track(sorted(pairs.items()), "checking masks", disable=len(pairs) < 200):
        try:
            result.files[stem] = mask
            result.files[stem], highest, mask_size = _convert(mask, cache)
            mode, image_size = _header(image)
        except (OSError, SyntaxError, ValueError):
            continue
        if image_size != mask_size:
            result.problems.setdefault("masks of another size than their image", []).append(stem)
        if highest >= classes:
            result.problems.setdefault(f"masks with class indices over {classes - 1}", []).append(stem)
        result.grey = result.grey and mode in GREY_MODES
        result.highest = max(result.highest, highest)
    return result


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    """Colour mode and (width, height) as the EXIF orientation turns them."""
    with Image.open(path) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) >= 5
        return image.mode, (height, width) if turned else (width, height)


def _convert(mask: Path, cache: Path) -> tuple[Path, int, tuple[int, int]]:
    """The converted file, its highest index and its (width, height)."""
    status = mask.stat()
    key = hashlib.sha256(f"{mask.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:24]
    file, facts = cache / "masks" / f"{key}.png", cache / "masks" / f"{key}.json"
    if not facts.is_file():
        indices = read_indices(mask)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.minimum(indices, 255).astype(np.uint8)).save(file)
        # last and in one step: facts that exist are facts of a whole mask
        write_whole(facts, json.dumps({"highest": int(indices.max()), "size": indices.shape[::-1]}))
    known = json.loads(facts.read_text())
    return file, known["highest"], tuple(known["size"])


def read_indices(path: Path) -> NDArray[np.int32]:
    """(H, W) class indices of a mask file; only 0 and 255 (or 65535), or a lossy JPEG, mean 0 and 1."""
    with Image.open(path) as image:
        lossy = image.format == "JPEG"
        upright = ImageOps.exif_transpose(image)
        grey = upright if upright.mode in ("P", *GREY_MODES) else upright.convert("L")
        values = np.asarray(grey).astype(np.int32)
    if lossy:
        return (values > 127).astype(np.int32)
    if set(np.unique(values)) <= {0, 255} or set(np.unique(values)) <= {0, 65535}:
        return (values > 0).astype(np.int32)
    return values
