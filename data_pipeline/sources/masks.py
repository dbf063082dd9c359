"""Convert masks of any common kind to 8-bit grey PNG files of class indices, once, in the cache.

A mask is used only where it is certain what its values mean. All others are refused with what was found in them.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from data_pipeline.dicom import is_dicom, open_dicom
from data_pipeline.fields import is_whole, read_object, require, require_keys
from data_pipeline.files import code_version, whole_file, write_whole
from data_pipeline.image_file import open_image
from data_pipeline.image_header import ImageError, read_header
from data_pipeline.records import DataError
from data_pipeline.sources.pairing import Problems

MAX_CLASSES = 64
RULES = "masks.json"  # in a data folder, says how to read its masks
GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L")
VERSION = code_version(__file__, "image_header.py", "image_file.py", "orientation.py", "tiff.py")
DARK, BRIGHT = 63, 192  # a JPEG's black and white, with the ripples of its compression
MOST_BETWEEN = 0.05  # share of a JPEG's pixels that may lie between, along the outlines
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


class MaskError(Exception):
    """Report a mask whose meaning is in doubt.

    kind: what is in doubt, in the plural, by which masks are counted, with what to do.
    found: the values of this one.
    """

    def __init__(self, kind: str, found: str) -> None:
        super().__init__(f"{kind} ({found})")
        self.kind, self.found = kind, found


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
    for stem, (image, mask) in track(sorted(pairs.items()), "checking masks", disable=len(pairs) < 200):
        result.files[stem] = mask
        try:
            result.files[stem], found, mask_size = _convert(mask, cache, rules or MaskRules())
            size, grey = _shape(image.read_bytes())
        except MaskError as error:
            # With the values of the first one: the others are counted.
            kind = next((known for known in result.problems if known.startswith(error.kind)), str(error))
            result.problems.setdefault(kind, []).append(stem)
            continue
        except (ImageError, OSError):
            # A file that cannot be read stays in the set as it is. The scan reports it, and --skip-bad can drop it.
            continue
        if size != mask_size:
            result.problems.setdefault("masks of another size than their image", []).append(stem)
        elif max(found) >= classes:
            result.problems.setdefault(f"masks with class indices over {classes - 1}", []).append(stem)
        else:
            result.grey = result.grey and grey
            result.classes |= set(found)
    return result


def _shape(data: bytes) -> tuple[tuple[int, int], bool]:
    """Return the upright (width, height) of an image and whether it is grey, from its header alone."""
    if is_dicom(data):
        image = open_dicom(data)
        return (image.width, image.height), image.grey
    header = read_header(data)
    return header.upright_size, header.grey


def _convert(mask: Path, cache: Path, rules: MaskRules) -> tuple[Path, list[int], tuple[int, int]]:
    """Return the converted file of a mask, its class indices and its (width, height)."""
    data = mask.read_bytes()
    # By content and by the code, so that neither a copied file nor an older version's result is taken for another's.
    key = hashlib.sha256(f"{VERSION} {rules} ".encode() + data).hexdigest()[:32]
    file, facts = cache / "masks" / f"{key}.png", cache / "masks" / f"{key}.json"
    if not facts.is_file():
        indices = read_indices(data, rules)
        with whole_file(file) as temporary:
            # Indices beyond a byte are refused by the caller. Until then they must not wrap around to valid ones.
            Image.fromarray(np.minimum(indices, 255).astype(np.uint8)).save(temporary, "PNG")
        # The facts come last, so facts that exist belong to a whole mask.
        write_whole(facts, json.dumps({"classes": np.unique(indices).tolist(), "size": indices.shape[::-1]}))
    known = json.loads(facts.read_text())
    return file, known["classes"], tuple(known["size"])


def read_indices(data: bytes, rules: MaskRules) -> Values:
    """Read the class indices of a mask file, turned upright.

    Returns:
        (H, W) class indices, which may be larger than any class.

    Raises:
        MaskError: it is in doubt what the values mean.
        ImageError: the file is not one that is read.
        OSError: the pixels are damaged.
    """
    image, lossy = _open(data)
    _refuse_alpha(image)
    if rules.colours is not None:
        return _by_colour(image, rules.colours)
    if image.mode == "P":
        return _by_palette(image)
    values = _grey_values(image)
    if rules.threshold is not None:
        return (values >= rules.threshold).astype(np.int32)
    return _of_jpeg(values) if lossy else _of_grey(values)


def _open(data: bytes) -> tuple[Image.Image, bool]:
    """Open a mask upright, and tell whether its compression blurs values."""
    try:
        image = open_image(data)
    except ImageError as error:
        if error.reason != "not_an_image":
            raise
        # Masks may also be of other formats that Pillow reads and that keep their values: GIF and BMP.
        image = Image.open(io.BytesIO(data), formats=("GIF", "BMP"))
    image.load()
    return image, data[:2] == b"\xff\xd8"


def _refuse_alpha(image: Image.Image) -> None:
    if image.mode not in ("LA", "RGBA", "PA"):
        return
    least, most = np.asarray(image.getchannel("A")).min(), np.asarray(image.getchannel("A")).max()
    if least < most:
        raise MaskError(
            "masks whose transparency varies: save the shape itself in grey, 0 and 255, without an alpha channel",
            f"{image.mode} with alpha from {least} to {most}",
        )


def _grey_values(image: Image.Image) -> Values:
    """Return the values of a mask without colour, or raise MaskError."""
    if image.mode in GREY_MODES:
        return np.asarray(image).astype(np.int32)
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


def _by_palette(image: Image.Image) -> Values:
    """Read a palette of black and white by its colours, and one of colours that begins with black by its indices."""
    indices = np.asarray(image).astype(np.int32)
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    grey = rgb[..., 0]
    if (rgb == grey[..., None]).all() and (set(np.unique(grey).tolist()) <= {0, 255} or (grey == indices).all()):
        return _of_grey(grey)
    dark = (rgb == 0).all(axis=2)
    # Index 0 is black, and nothing else is: then the indices are classes, as in PASCAL VOC.
    palette = image.getpalette() or [255]
    if palette[:3] == [0, 0, 0] and (dark == (indices == 0)).all() and indices.max() < 255:
        return indices
    packed = rgb @ np.array([65536, 256, 1])
    raise MaskError(
        f'masks with a palette whose indices are no classes: list its colours in {RULES}, {{"colours": ...}}',
        _shares(packed, lambda value: f"#{value:06x}"),
    )


def _of_jpeg(values: Values) -> Values:
    """Read a JPEG mask of black and white, whose compression has blurred both."""
    between = float(((values > DARK) & (values < BRIGHT)).mean())
    bright = values > 127
    # All dark and yet not black: indices, which the compression has changed.
    if between > MOST_BETWEEN or (not bright.any() and values.any()):
        raise MaskError(
            f'JPEG masks that are not black and white: save them as PNG, or put {{"threshold": 128}} into {RULES}',
            _shares(values, str),
        )
    return bright.astype(np.int32)


def _of_grey(values: Values) -> Values:
    """Read a mask of 0 and 255 (or 65535) or of class indices, or raise MaskError for anything else."""
    found = set(np.unique(values).tolist())
    if found <= {0, 255} or found <= {0, 65535}:
        return (values > 0).astype(np.int32)
    if max(found) < MAX_CLASSES:
        return values
    void = max(found - {255}) < MAX_CLASSES
    advice = (
        'indices with 255 for void: give these pixels a class, or list all in {}, {{"colours": {{"#ffffff": 0, ...}}}}'
        if void
        else 'values that are neither 0 and 255 nor class indices below 64: put {{"threshold": 128}} into {}'
    )
    raise MaskError(f"masks with {advice.format(RULES)}", _shares(values, str))


def _shares(values: Values, name: Callable[[int], str]) -> str:
    """List the most frequent values with their shares of the pixels."""
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shares = [f"{name(int(found[i]))} in {100 * counts[i] / values.size:.3g} %" for i in order[:SHOWN]]
    return ", ".join(shares) + (f" and {len(found) - SHOWN} more values" if len(found) > SHOWN else "")
