"""Pair images, masks and rows of labels by name, choose splits, and raise all problems at once."""

import csv
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from data_pipeline.fields import MOST_LABELS, MOST_SHOWN, as_line, require_names, shown
from data_pipeline.files import is_left_behind
from data_pipeline.records import DataError, Split

SHARES: dict[Split, tuple[float, float]] = {
    "train": (0.0, 0.8),
    "validation": (0.8, 0.9),
    "test": (0.9, 1.0),
    "all": (0.0, 1.0),
}
# ISIC's tables write 0.0 and 1.0.
BINARY = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
# Endings of files, which are no part of a name. Others may be: of a date, or of the UID of a DICOM file.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".tif", ".tiff", ".gif", ".bmp", ".webp", ".jp2", ".dcm"),
    *(".heic", ".dib"),
)
# What other programs leave in folders of images.
OTHER_SUFFIXES = (".json", ".xml", ".txt", ".csv", ".md")
MASK_ENDINGS = ("_segmentation", "_mask", "-mask", "_seg", "_label", "_labels", "_gt")
SHOWN = 5  # names that an error lists for each problem

Rows = dict[str, tuple[int, ...]]
Problems = dict[str, list[str]]  # stems of files or rows, or what else names them, by kind of problem, in the plural


@dataclass(frozen=True)
class Table:
    """Hold a table of labels.

    names: of the labels.
    rows: values of the labels by the stem of the image, to be used only if there are no problems.
    problems: wrong rows by kind of problem.
    """

    names: tuple[str, ...]
    rows: Rows
    problems: Problems


def read_labels(path: Path, key: str) -> Table:
    """Read a CSV file of labels.

    Args:
        path: the file.
        key: header of the first column, which names the images.

    Raises:
        DataError: the file is missing or is no such table. Wrong rows are returned as problems instead.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: expected a CSV file with a column '{key}' and one 0/1 column a label")
    try:
        # Spreadsheets write a byte order mark before the first column, which "utf-8-sig" removes.
        with path.open(newline="", encoding="utf-8-sig") as file:
            cells = ([cell.strip() for cell in line] for line in csv.reader(file))
            # Spreadsheets end a table with rows of commas alone.
            header, *lines = [line for line in cells if any(line)] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} must be a CSV file in UTF-8 ({error}); export it as such") from None
    _refuse_breaks(path, header, lines)
    # And its rows with commas that no column belongs to.
    width = next((count for count in range(len(header), 0, -1) if header[count - 1]), 0)
    if not any(any(line[width:]) for line in lines):
        header, lines = header[:width], [line[:width] for line in lines]
    if header[:1] != [key] or len(header) < 2:
        raise DataError(
            f"{path}: the first line must be '{key}' and the names of the labels with commas between, "
            f"found {shown(','.join(header))}"
        )
    names = tuple(header[1:])
    try:
        require_names(names, "the names of the labels", 1, MOST_LABELS)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    blank = [f"row {number}" for number, line in enumerate(lines, 1) if not line[0]]
    lines = [line for line in lines if line[0]]
    stems = [stem_of(line[0]) for line in lines]
    wrong = [(stem, fault) for stem, line in zip(stems, lines, strict=True) if (fault := _fault(stem, names, line[1:]))]
    # With what was found in the first one: the others are counted.
    described = f" ({wrong[0][1]})" if wrong else ""
    problems = {
        f"rows of {path.name} that name no image, counted without the header and empty rows": blank,
        f"rows of {path.name} with values other than 0 or 1{described}": [stem for stem, _ in wrong],
        f"images listed twice in {path.name}": find_repeated(stems),
    }
    # Wrong values become 0 for now: the rows' names are still needed to find files without a counterpart.
    values = [tuple(BINARY.get(value, 0) for value in line[1:]) for line in lines]
    return Table(names, dict(zip(stems, values, strict=True)), problems)


def _refuse_breaks(path: Path, header: list[str], lines: list[list[str]]) -> None:
    """Raise DataError where a cell holds a break between lines, as all that follows a quote does that nobody closes."""
    for number, line in enumerate([header, *lines]):
        if broken := next((cell for cell in line if "\n" in cell or "\r" in cell), None):
            where = f"row {number}, counted without the header and empty rows," if number else "the header"
            raise DataError(
                f"{path}: each row must be one line, but {where} has a cell of several, {shown(broken)}; "
                "close the quote that it begins with, or take the line break out of it"
            )


def _fault(stem: str, names: tuple[str, ...], values: list[str]) -> str:
    """Say what is wrong with the values of a row and what to do, or return "" for a good one."""
    stem = named(stem)
    if len(values) != len(names):
        return f"{stem} has {len(values)} values for {len(names)} labels; write 0 or 1 for each"
    wrong = ((name, value) for name, value in zip(names, values, strict=True) if value not in BINARY)
    return next((f"{name} is {shown(value)} for {stem}; write 0 or 1" for name, value in wrong), "")


def stem_of(name: str) -> str:
    """Return a file's name without its folder and without the ending of an image, in the one form that Unicode has.

    macOS writes é as two characters, most others as one.
    """
    base = unicodedata.normalize("NFC", name.replace("\\", "/").rpartition("/")[2])
    stem, dot, ending = base.rpartition(".")
    return stem if stem and f"{dot}{ending}".lower() in SUFFIXES else base


def files_by_stem(folder: Path, layout: str, pattern: str = "*", ending: str = "") -> dict[str, list[Path]]:
    """Return the files of a folder by their stem, which several may share.

    Args:
        folder: where to look. Hidden files, and those that are no images by their ending, are ignored.
        layout: what was expected, for the message when there is no such folder.
        pattern: glob pattern of the files' names, in any case.
        ending: removed from the end of each stem.

    Raises:
        DataError: the folder is missing.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: {layout}")
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and _is_meant(path.name.lower(), pattern.lower())
    )
    found: dict[str, list[Path]] = {}
    for path in files:
        found.setdefault(stem_of(path.name).removesuffix(ending), []).append(path)
    return found


def _is_meant(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) and not is_left_behind(name) and not name.endswith(OTHER_SUFFIXES)


def match(files: dict[str, list[Path]], stems: Collection[str], endings: tuple[str, ...] = ()) -> dict[str, list[Path]]:
    """Return files under the stems that they belong to: the same one, or one that differs in case or by an ending.

    A file that belongs to none of the stems is under its own.

    Args:
        files: paths by their own stem.
        stems: the stems wanted.
        endings: what may follow the stem in a file's name, as in x_mask.png.
    """
    wanted, by_case = set(stems), Counter(stem.casefold() for stem in stems)
    of_case = {stem.casefold(): stem for stem in stems if by_case[stem.casefold()] == 1}
    matched: dict[str, list[Path]] = {}
    for stem, paths in files.items():
        own = stem.casefold()
        names = [own, *(own.removesuffix(ending) for ending in endings if own.endswith(ending))]
        target = next((of_case[name] for name in names if name in of_case), stem)
        matched.setdefault(stem if stem in wanted else target, []).extend(paths)
    return matched


def find_rivals(matched: dict[str, list[Path]]) -> list[str]:
    """Find the stems that several files may belong to."""
    return sorted(stem for stem, paths in matched.items() if len(paths) > 1)


def find_strangers(matched: dict[str, list[Path]], images: Collection[str]) -> list[str]:
    """Find the masks that belong to no image, by name."""
    return sorted(paths[0].name for stem, paths in matched.items() if stem not in images)


def find_unpaired(rows: Iterable[str], images: Iterable[str], masks: Iterable[str], table: str) -> Problems:
    """Find the stems that lack a counterpart, by kind of problem.

    Args:
        rows: stems of the table's rows.
        images: stems of the images.
        masks: stems of the masks. Masks without an image are no problem.
        table: name of the table's file, for the messages.
    """
    with_row, with_image, with_mask = set(rows), set(images), set(masks)
    return {
        "images without a mask": sorted(with_image - with_mask),
        f"images without a row in {table}": sorted(with_image - with_row),
        f"rows of {table} without an image": sorted(with_row - with_image),
    }


def raise_problems(where: Path, problems: Problems) -> None:
    """Raise DataError if there are any problems, with the number of each and the first few names."""
    present = {kind: names for kind, names in problems.items() if names}
    if present:
        parts = [f"{len(names)} {kind}: {_shorten(names)}" for kind, names in present.items()]
        raise DataError(f"{where}: " + "; ".join(parts))


def set_aside(where: Path, problems: Problems, skip_bad: bool) -> tuple[set[str], tuple[str, ...]]:
    """Raise all problems, or with `skip_bad` return the stems to leave out and one line that counts them.

    Raises:
        DataError: there are problems, and `skip_bad` is off.
    """
    bad = {name for names in problems.values() for name in names}
    if not bad or not skip_bad:
        raise_problems(where, problems)
        return set(), ()
    parts = [f"{len(names)} {kind}: {_shorten(names)}" for kind, names in problems.items() if names]
    return bad, (f"left out {len(bad)} of {where} by --skip-bad: " + "; ".join(parts),)


def require_some(
    where: Path, split: Split, known: int, chosen: Collection[object], good: Collection[object], what: str = "images"
) -> None:
    """Raise DataError where a split is empty.

    Args:
        where: the source.
        split: which split.
        known: how many images the source has.
        chosen: those of the split.
        good: those of these that can be used.
        what: the images are called.
    """
    if not chosen:
        raise DataError(f"{where}: the {split} split is empty: {known} {what} are too few to split")
    if not good:
        raise DataError(f"{where}: the {split} split is empty: none of its {len(chosen)} {what} can be used")


def find_repeated(names: list[str]) -> list[str]:
    """Return the names that occur more than once, sorted."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _shorten(names: list[str]) -> str:
    return ", ".join(map(named, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")


def named(name: str) -> str:
    """Return a name as a message shows it: one line, cut where it is long."""
    line = as_line(name)
    return line if len(line) <= MOST_SHOWN else f"{line[:MOST_SHOWN]}..."


def hash_names(names: Collection[str]) -> str:
    """Hash the names that `choose_split` divides, in any order."""
    return hashlib.sha256(repr(sorted(names)).encode()).hexdigest()[:16]


def choose_split(names: Collection[str], split: Split, seed: int | tuple[int, ...]) -> list[str]:
    """Choose 80, 10, 10 or 100 % of the names at random by `seed`, the same for any order of `names`."""
    # Sorted first, because a file system lists its names in any order.
    ordered = sorted(names)
    order = np.random.default_rng(seed).permutation(len(ordered))
    # Rounded limits rather than rounded sizes: each split begins where the one before it ends.
    low, high = (round(share * len(ordered)) for share in SHARES[split])
    return [ordered[index] for index in order[low:high]]
