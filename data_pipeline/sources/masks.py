"""Convert masks of any common kind to 8-bit grey PNG files of class indices, once, in the cache."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.progress import track

from data_pipeline.files import whole_file, write_whole
from data_pipeline.orientation import ORIENTATION
from data_pipeline.sources.pairing import Problems

MAX_CLASSES = 64
GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "F")


@dataclass(kw_only=True)
class ConvertedMasks:
    """Hold what is known of a set of images and masks after conversion.

    files: the mask to use, by stem.
    highest: the largest class index of all masks.
    grey: whether no image has colour.
    problems: stems by kind of problem.
    """

    files: dict[str, Path] = field(default_factory=dict)
    highest: int = 0
    grey: bool = True
    problems: Problems = field(default_factory=dict)


def convert_masks(pairs: dict[str, tuple[Path, Path]], cache: Path, classes: int = MAX_CLASSES) -> ConvertedMasks:
    """Check pairs of an image and a mask, and convert the masks. A second call reads headers only.

    Masks hold indices below `classes`, or 0 and 255 for a single class, in 1, 8 or 16 bits, grey or with a palette.

    Args:
        pairs: paths of the image and of the mask, by stem.
        cache: folder of converted masks.
        classes: number of classes with the background.
    """
    result = ConvertedMasks()
    for stem, (image, mask) in track(sorted(pairs.items()), "checking masks", disable=len(pairs) < 200):
        try:
            result.files[stem] = mask
            result.files[stem], highest, mask_size = _convert(mask, cache)
            mode, image_size = _header(image)
        except (OSError, SyntaxError, ValueError):
            # A file that cannot be read stays in the set as it is. The scan reports it, and --skip-bad can drop it.
            continue
        if image_size != mask_size:
            result.problems.setdefault("masks of another size than their image", []).append(stem)
        if highest >= classes:
            result.problems.setdefault(f"masks with class indices over {classes - 1}", []).append(stem)
        result.grey = result.grey and mode in GREY_MODES
        result.highest = max(result.highest, highest)
    return result


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    """Return an image's colour mode and its upright (width, height)."""
    with Image.open(path) as image:
        width, height = image.size
        # The orientations from 5 to 8 include a quarter turn.
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        return image.mode, (height, width) if turned else (width, height)


def _convert(mask: Path, cache: Path) -> tuple[Path, int, tuple[int, int]]:
    """Return the converted file of a mask, its highest index and its (width, height)."""
    # By date and size rather than by content, so that a second call need not read the mask.
    status = mask.stat()
    key = hashlib.sha256(f"{mask.resolve()} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:24]
    file, facts = cache / "masks" / f"{key}.png", cache / "masks" / f"{key}.json"
    if not facts.is_file():
        indices = read_indices(mask)
        with whole_file(file) as temporary:
            # Indices beyond a byte are refused by the caller. Until then they must not wrap around to valid ones.
            Image.fromarray(np.minimum(indices, 255).astype(np.uint8)).save(temporary, "PNG")
        # The facts come last, so facts that exist belong to a whole mask.
        write_whole(facts, json.dumps({"highest": int(indices.max()), "size": indices.shape[::-1]}))
    known = json.loads(facts.read_text())
    return file, known["highest"], tuple(known["size"])


def read_indices(path: Path) -> NDArray[np.int32]:
    """Read the class indices of a mask file, turned upright, as (H, W).

    A mask that holds only 0 and 255 (or 65535), or that is a JPEG, has the classes 0 and 1.
    """
    with Image.open(path) as image:
        lossy = image.format == "JPEG"
        upright = ImageOps.exif_transpose(image)
        # A palette image holds indices already. Other colour images are taken for grey ones saved as RGB.
        grey = upright if upright.mode in ("P", *GREY_MODES) else upright.convert("L")
        values = np.asarray(grey).astype(np.int32)
    if lossy:
        # Compression has blurred the two values, so no exact index can be read.
        return (values > 127).astype(np.int32)
    if set(np.unique(values)) <= {0, 255} or set(np.unique(values)) <= {0, 65535}:
        return (values > 0).astype(np.int32)
    return values
