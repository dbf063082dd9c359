"""`folder:DIR`: images/ and masks/ of equal stems, and labels.csv with a column `image` and one 0/1 column a label."""

from pathlib import Path

from data_pipeline.records import BACKGROUND, DataError, Dataset, Record, Split
from data_pipeline.sources.masks import convert_masks
from data_pipeline.sources.pairing import by_stem, draw_split, read_labels, refuse, unpaired

LAYOUT = "a data folder holds images/, masks/ and labels.csv"


def open_folder(folder: Path, split: Split, samples: int | None, seed: int, cache: Path) -> Dataset:
    """The records of one split (80 / 10 / 10 %, drawn by `seed`), at most `samples`; DataError lists every problem."""
    table = read_labels(folder / "labels.csv", "image")
    images, masks = by_stem(folder / "images", LAYOUT), by_stem(folder / "masks", LAYOUT)
    problems = table.problems | unpaired(table.rows, images, masks, "labels.csv")
    converted = convert_masks({stem: (images[stem], masks[stem]) for stem in images.keys() & masks.keys()}, cache)
    refuse(folder, problems | converted.problems)
    classes = converted.highest + 1
    names = ["foreground"] if classes <= 2 else [f"class {index}" for index in range(1, classes)]
    stems = draw_split(table.rows, split, seed)[:samples]
    if not stems:
        raise DataError(f"{folder}: the {split} split is empty: {len(table.rows)} images are too few to split")
    records = tuple(Record(images[stem], converted.files[stem], table.rows[stem]) for stem in stems)
    return Dataset(f"folder:{folder}", records, (BACKGROUND, *names), table.names, grey=converted.grey)
