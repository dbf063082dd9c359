"""Open `folder:DIR`, a folder with images/, masks/ of the same stems, and labels.csv.

The table has a column `image` and one column of 0 and 1 for each label.
"""

from pathlib import Path

from data_pipeline.records import BACKGROUND, DataError, Dataset, Record, Split
from data_pipeline.sources.masks import convert_masks
from data_pipeline.sources.pairing import choose_split, files_by_stem, find_unpaired, raise_problems, read_labels

LAYOUT = "a data folder holds images/, masks/ and labels.csv"


def open_folder(folder: Path, split: Split, samples: int | None, seed: int, cache: Path) -> Dataset:
    """Return the records of one split: 80, 10 or 10 % of the images, chosen by `seed`.

    Args:
        folder: the data folder.
        split: which split.
        samples: at most this many records.
        seed: of the split.
        cache: folder of converted masks.

    Raises:
        DataError: files or rows are missing, repeated or wrong. The message lists every problem.
    """
    table = read_labels(folder / "labels.csv", "image")
    images, masks = files_by_stem(folder / "images", LAYOUT), files_by_stem(folder / "masks", LAYOUT)
    problems = table.problems | find_unpaired(table.rows, images, masks, "labels.csv")
    converted = convert_masks({stem: (images[stem], masks[stem]) for stem in images.keys() & masks.keys()}, cache)
    raise_problems(folder, problems | converted.problems)
    # The classes come from all masks, not from those of the split, so that every split has the same ones. Masks that
    # are all empty still have one class to learn.
    classes = converted.highest + 1
    names = ["foreground"] if classes <= 2 else [f"class {index}" for index in range(1, classes)]
    stems = choose_split(table.rows, split, seed)[:samples]
    if not stems:
        raise DataError(f"{folder}: the {split} split is empty: {len(table.rows)} images are too few to split")
    return Dataset(
        name=f"folder:{folder}",
        records=tuple(
            Record(image=images[stem], mask=converted.files[stem], labels=table.rows[stem]) for stem in stems
        ),
        seg_classes=(BACKGROUND, *names),
        labels=table.names,
        grey=converted.grey,
    )
