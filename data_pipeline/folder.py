"""`folder:DIR`: images/ and masks/ of equal stems, and labels.csv with a column `image` and one 0/1 column a label."""

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_pipeline.masks import convert_masks
from data_pipeline.records import BACKGROUND, DataError, Dataset, Record, Split

SHARES: dict[Split, tuple[float, float]] = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}
SHOWN = 5  # names listed per problem


def open_folder(folder: Path, split: Split, samples: int | None, seed: int, cache: Path) -> Dataset:
    """The records of one split (80 / 10 / 10 %, drawn by `seed`), at most `samples`; DataError lists every problem."""
    labels, rows = read_labels(folder / "labels.csv")
    images, masks = _by_stem(folder / "images"), _by_stem(folder / "masks")
    problems = _pairing_problems(rows, images, masks)
    converted = convert_masks({stem: (images[stem], masks[stem]) for stem in images.keys() & masks.keys()}, cache)
    refuse(folder, problems | converted.problems)
    classes = converted.highest + 1
    names = ["foreground"] if classes <= 2 else [f"class {index}" for index in range(1, classes)]
    stems = _split(sorted(rows), split, seed)[:samples]
    if not stems:
        raise DataError(f"{folder}: the {split} split is empty: {len(rows)} images are too few to split")
    records = tuple(Record(images[stem], converted.files[stem], rows[stem]) for stem in stems)
    return Dataset(f"folder:{folder}", records, (BACKGROUND, *names), labels, grey=converted.grey)


def read_labels(path: Path) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Names of the labels and, by the image's stem, their values."""
    if not path.is_file():
        raise DataError(f"{path} is missing: expected a CSV file with a column 'image' and one 0/1 column a label")
    with path.open(newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        lines = [line for line in reader if line]
    if header[:1] != ["image"] or len(header) < 2:
        raise DataError(
            f"{path}: the first line must be 'image' and the names of the labels, found {','.join(header)!r}"
        )
    stems = [Path(line[0]).stem for line in lines]
    refuse(
        path,
        {
            "values other than 0 or 1": [line[0] for line in lines if not _is_binary(line[1:], len(header) - 1)],
            "images listed twice": repeated(stems),
        },
    )
    return tuple(header[1:]), {stem: tuple(map(int, line[1:])) for stem, line in zip(stems, lines, strict=True)}


def refuse(where: Path, problems: dict[str, list[str]]) -> None:
    """Raises DataError with one line a kind of problem: its count and the first few names."""
    found = {kind: names for kind, names in problems.items() if names}
    if found:
        lines = [f"{len(names)} {kind}: {_shorten(names)}" for kind, names in found.items()]
        raise DataError(f"{where}: " + "; ".join(lines))


def repeated(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _is_binary(values: list[str], count: int) -> bool:
    return len(values) == count and all(value.strip() in ("0", "1") for value in values)


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: a data folder holds images/, masks/ and labels.csv")
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    stems = [path.stem for path in files]
    refuse(folder, {"files that share their stem with another": repeated(stems)})
    return dict(zip(stems, files, strict=True))


def _pairing_problems(rows: Iterable[str], images: Iterable[str], masks: Iterable[str]) -> dict[str, list[str]]:
    named, drawn, outlined = set(rows), set(images), set(masks)
    return {
        "images without a mask": sorted(drawn - outlined),
        "images without a row in labels.csv": sorted(drawn - named),
        "rows of labels.csv without an image": sorted(named - drawn),
    }


def _split(stems: list[str], split: Split, seed: int) -> list[str]:
    order = np.random.default_rng(seed).permutation(len(stems))
    low, high = (round(share * len(stems)) for share in SHARES[split])
    return [stems[index] for index in order[low:high]]
