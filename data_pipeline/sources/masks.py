"""Convert masks of any common kind to 8-bit grey PNG files of class indices, once, in the cache.

A mask is used only where it is certain what its values mean. All others are refused with what was found in them.
"""

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.progress import track

from data_pipeline.dicom import is_dicom, open_dicom
from data_pipeline.fields import is_whole, read_object, require, require_keys
from data_pipeline.files import code_version, whole_file, write_whole
from data_pipeline.image_header import ImageError, read_header
from data_pipeline.records import DataError
from data_pipeline.sources.mask_values import MAX_CLASSES, RULES, MaskError, MaskRules, read_indices
from data_pipeline.sources.pairing import Problems, named

READERS = ("image_header.py", "image_file.py", "orientation.py", "tiff.py", "sources/mask_values.py")
VERSION = code_version(__file__, *READERS)
UNREADABLE = "masks that cannot be read"
OTHER_SIZE = "masks of another size than their image"
TURNED = (
    "masks of the size that their image has before its orientation (EXIF or the like) turns it: turn these masks as "
    "well, or take the orientation out of the images if they are upright without it"
)
# White may be class 1, another class, or void.
MIXED = (
    f'so that white may mean any of them: save all as indices, or put {{"colours": {{"#ffffff": 0, ...}}}} into {RULES}'
)


@dataclass(kw_only=True)
class ConvertedMasks:
    """Hold what is known of a set of images and masks after conversion.

    files: the mask to use, by stem.
    classes: the class indices that occur in any mask.
    grey: whether no image has colour.
    problems: stems by kind of problem.
    """

    files: dict[str, Path] = field(default_factory=dict)
    classes: set[int] = field(default_factory=set)
    grey: bool = True
    problems: Problems = field(default_factory=dict)


class _Converted(NamedTuple):
    """Hold what is known of one mask after conversion.

    file: the converted mask.
    classes: the class indices that occur in it.
    size: (width, height) in pixels.
    black_white: as in `Indices`.
    """

    file: Path
    classes: list[int]
    size: tuple[int, int]
    black_white: bool


class _Shape(NamedTuple):
    """Hold what is known of an image without its pixels.

    size: (width, height) in pixels, upright.
    stored: the same before the image is turned.
    grey: whether it has no colour.
    """

    size: tuple[int, int]
    stored: tuple[int, int]
    grey: bool


def read_rules(folder: Path) -> MaskRules:
    """Read the optional file masks.json of a data folder, or raise DataError where it breaks a rule.

    It holds {"threshold": 128}, or {"colours": {"#000000": 0, "#ff0000": 1}}.
    """
    path = folder / RULES
    if not path.is_file():
        return MaskRules()
    try:
        fields = read_object(path.read_text(encoding="utf-8-sig"), RULES)
        require_keys(fields, RULES, (), ("threshold", "colours"))
        require(len(fields) == 1, RULES, "an object of threshold or of colours", fields)
        if "threshold" in fields:
            require(is_whole(fields["threshold"], 1, 65535), "threshold", "a whole number from 1", fields["threshold"])
            return MaskRules(threshold=fields["threshold"])
        colours = fields["colours"]
        require(isinstance(colours, dict) and bool(colours), "colours", "an object", colours)
        twice = len({colour.lower() for colour in colours}) < len(colours)
        require(not twice, "colours", "each named once", ", ".join(colours))
        for colour, index in colours.items():
            require(re.fullmatch("#[0-9a-fA-F]{6}", colour) is not None, "each colour", "written as #rrggbb", colour)
            require(is_whole(index, 0, MAX_CLASSES - 1), "each class", f"0 to {MAX_CLASSES - 1}", index)
        return MaskRules(colours={int(colour[1:], 16): index for colour, index in colours.items()})
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None


def convert_masks(
    pairs: dict[str, tuple[Path, Path]], cache: Path, classes: int = MAX_CLASSES, rules: MaskRules | None = None
) -> ConvertedMasks:
    """Check pairs of an image and a mask, and convert the masks. A second call decodes nothing.

    Args:
        pairs: paths of the image and of the mask, by stem.
        cache: folder of converted masks.
        classes: number of classes with the background.
        rules: how to read masks whose own values leave it open.
    """
    result = ConvertedMasks()
    fitting: dict[str, tuple[_Converted, bool]] = {}
    for stem, (image, mask) in track(sorted(pairs.items()), "checking masks", disable=len(pairs) < 200):
        try:
            converted = _convert(mask, cache, rules or MaskRules())
        except (MaskError, ImageError) as error:
            kind = error.kind if isinstance(error, MaskError) else UNREADABLE
            _note(result.problems, kind, _described(error), stem)
            continue
        result.files[stem] = converted.file
        try:
            shape = _shape(image.read_bytes())
        except (ImageError, OSError):
            # An image that cannot be read stays in the set. The scan reports it, and --skip-bad can drop it.
            continue
        if shape.size != converted.size:
            kind = TURNED if shape.stored == converted.size else OTHER_SIZE
            sizes = "{} x {}, and {} x {} of the image".format(*converted.size, *shape.size)
            _note(result.problems, kind, f"{kind} ({sizes})", stem)
        elif max(converted.classes) >= classes:
            result.problems.setdefault(f"masks with class indices over {classes - 1}", []).append(stem)
        else:
            fitting[stem] = converted, shape.grey
    mixed = _find_mixed({stem: converted for stem, (converted, _) in fitting.items()})
    result.problems |= mixed
    for stem in fitting.keys() - {stem for stems in mixed.values() for stem in stems}:
        converted, grey = fitting[stem]
        result.grey = result.grey and grey
        result.classes |= set(converted.classes)
    return result


def _note(problems: Problems, kind: str, described: str, stem: str) -> None:
    """Add a stem to a kind of problem, with what was found in the first one: the others are counted."""
    known = next((one for one in problems if one.startswith(kind)), described)
    problems.setdefault(known, []).append(stem)


def _find_mixed(masks: dict[str, _Converted]) -> Problems:
    """Find masks of black and white among masks of class indices over 1, or the other way round."""
    kinds = {
        "black and white": [stem for stem, mask in masks.items() if mask.black_white],
        "class indices over 1": [stem for stem, mask in masks.items() if max(mask.classes) > 1],
    }
    # The fewer: one mask with a stray index does not put all others in the wrong.
    few, many = sorted(kinds, key=lambda kind: len(kinds[kind]))
    if not kinds[few]:
        return {}
    return {f"masks of {few} among {len(kinds[many])} of {many}, {MIXED} ({named(kinds[many][0])} is one)": kinds[few]}


def _described(error: MaskError | ImageError) -> str:
    return str(error) if isinstance(error, MaskError) else f"{UNREADABLE} ({error})"


def _shape(data: bytes) -> _Shape:
    """Return the shape of an image from its header alone."""
    if is_dicom(data):
        image = open_dicom(data)
        return _Shape((image.width, image.height), (image.width, image.height), image.grey)
    header = read_header(data)
    return _Shape(header.upright_size, (header.width, header.height), header.grey)


def _convert(mask: Path, cache: Path, rules: MaskRules) -> _Converted:
    """Convert a mask, or return what an earlier conversion left in the cache."""
    try:
        data = mask.read_bytes()
    except OSError as error:
        raise ImageError(str(error.strerror), "damaged") from None
    # By content and by the code, so that neither a copied file nor an older version's result is taken for another's.
    key = hashlib.sha256(f"{VERSION} {rules} ".encode() + data).hexdigest()[:32]
    file, facts = cache / "masks" / f"{key}.png", cache / "masks" / f"{key}.json"
    if earlier := _read_converted(file, facts):
        return earlier
    indices = read_indices(data, rules)
    with whole_file(file) as temporary:
        # Indices beyond a byte are refused by the caller. Until then they must not wrap around to valid ones.
        Image.fromarray(np.minimum(indices.values, 255).astype(np.uint8)).save(temporary, "PNG")
    height, width = indices.values.shape
    found = _Converted(file, np.unique(indices.values).tolist(), (width, height), indices.black_white)
    # The facts come last, so facts that exist belong to a whole mask.
    known = {"classes": found.classes, "size": found.size, "black_white": found.black_white}
    write_whole(facts, json.dumps({**known, "bytes": file.stat().st_size}))
    return found


def _read_converted(file: Path, facts: Path) -> _Converted | None:
    """Return what an earlier conversion left, or None where that is missing or seen to be damaged."""
    # A cache: what cannot be read is converted again.
    with suppress(OSError, ValueError, TypeError, LookupError):
        known = json.loads(facts.read_text(encoding="utf-8"))
        width, height = map(int, known["size"])
        classes = [int(index) for index in known["classes"]]
        if classes and file.stat().st_size == known["bytes"]:
            return _Converted(file, classes, (width, height), bool(known["black_white"]))
    return None
