"""What sources of separate files share: pairing by name, rows of labels, splits, and all problems listed at once."""

import csv
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.records import DataError, Split

SHARES: dict[Split, tuple[float, float]] = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
BINARY = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
SHOWN = 5  # names listed per problem

Rows = dict[str, tuple[int, ...]]
Problems = dict[str, list[str]]  # names of files or rows by kind of problem, in the plural


@dataclass(frozen=True)
class Table:
    """names: of the labels.  rows: their values by the image's stem, to be used only where `problems` has none."""

    names: tuple[str, ...]
    rows: Rows
    problems: Problems


def read_labels(path: Path, key: str) -> Table:
    """`key` heads the column of the images; DataError where the file is no such table at all."""
    if not path.is_file():
        raise DataError(f"{path} is missing: expected a CSV file with a column '{key}' and one 0/1 column a label")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a mark before the first column
            header, *lines = [line for line in csv.reader(file) if line] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} must be a CSV file in UTF-8 ({error}); export it as such") from None
    if header[:1] != [key] or len(header) < 2:
        raise DataError(
            f"{path}: the first line must be '{key}' and the names of the labels, found {','.join(header)!r}"
        )
    stems = [Path(line[0]).stem for line in lines]
    wrong = [line[0] for line in lines if not _is_binary(line[1:], len(header) - 1)]
    problems = {
        f"rows of {path.name} with values other than 0 or 1": wrong,
        f"images listed twice in {path.name}": repeated(stems),
    }
    values = [tuple(BINARY.get(value.strip(), 0) for value in line[1:]) for line in lines]
    return Table(tuple(header[1:]), dict(zip(stems, values, strict=True)), problems)


def _is_binary(values: list[str], count: int) -> bool:
    return len(values) == count and all(value.strip() in BINARY for value in values)


def by_stem(folder: Path, layout: str, pattern: str = "*", ending: str = "") -> dict[str, Path]:
    """The files of `folder` that match `pattern` by stem without `ending`; layout: said where there is no folder."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: {layout}")
    files = sorted(path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith("."))
    stems = [path.stem.removesuffix(ending) for path in files]
    refuse(folder, {"files that share their stem with another": repeated(stems)})
    return dict(zip(stems, files, strict=True))


def unpaired(rows: Iterable[str], images: Iterable[str], masks: Iterable[str], table: str) -> Problems:
    """What lacks its counterpart, by kind of problem; table: name of the file of labels."""
    named, drawn, outlined = set(rows), set(images), set(masks)
    return {
        "images without a mask": sorted(drawn - outlined),
        f"images without a row in {table}": sorted(drawn - named),
        f"rows of {table} without an image": sorted(named - drawn),
    }


def refuse(where: Path, problems: Problems) -> None:
    """Raises DataError with one line a kind of problem: its count and the first few names."""
    found = {kind: names for kind, names in problems.items() if names}
    if found:
        lines = [f"{len(names)} {kind}: {_shorten(names)}" for kind, names in found.items()]
        raise DataError(f"{where}: " + "; ".join(lines))


def repeated(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def draw_split(names: Collection[str], split: Split, seed: int | tuple[int, ...]) -> list[str]:
    """80 / 10 / 10 % of the sorted names, drawn by `seed`."""
    ordered = sorted(names)
    order = np.random.default_rng(seed).permutation(len(ordered))
    low, high = (round(share * len(ordered)) for share in SHARES[split])
    return [ordered[index] for index in order[low:high]]
