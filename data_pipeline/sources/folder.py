"""Open `folder:DIR`, a folder with images/, masks/ of the same stems, and labels.csv.

The table has a column `image` and one column of 0 and 1 for each label.
"""

from pathlib import Path

from data_pipeline.records import Dataset, Record, Split, number_classes
from data_pipeline.sources.masks import ConvertedMasks, convert_masks, read_rules
from data_pipeline.sources.pairing import (
    MASK_ENDINGS,
    choose_split,
    files_by_stem,
    find_rivals,
    find_strangers,
    find_unpaired,
    hash_names,
    match,
    read_labels,
    require_some,
    set_aside,
)

LAYOUT = "a data folder holds images/, masks/ and labels.csv"


def open_folder(
    folder: Path, split: Split, samples: int | None, seed: int, cache: Path, skip_bad: bool = False
) -> Dataset:
    """Return the records of one split: 80, 10 or 10 % of the images, chosen by `seed`.

    Args:
        folder: the data folder.
        split: which split, or "all" for every image.
        samples: at most this many records.
        seed: of the split.
        cache: folder of converted masks.
        skip_bad: whether to leave out what has a problem.

    Raises:
        DataError: files or rows are missing, repeated or wrong. The message lists every problem.
    """
    table = read_labels(folder / "labels.csv", "image")
    images = match(files_by_stem(folder / "images", LAYOUT), table.rows)
    masks = match(files_by_stem(folder / "masks", LAYOUT), images.keys(), MASK_ENDINGS)
    problems = table.problems | find_unpaired(table.rows, images, masks, "labels.csv")
    problems |= {"images that share their name with another": find_rivals(images)}
    problems |= {"images with several masks": [stem for stem in find_rivals(masks) if stem in images]}
    if problems["images without a mask"] and not skip_bad:
        problems["masks without an image (name each like its image, or with _mask behind)"] = find_strangers(
            masks, images
        )
    pairs = {stem: (images[stem][0], masks[stem][0]) for stem in images.keys() & masks.keys()}
    converted = convert_masks(pairs, cache, rules=read_rules(folder))
    bad, notes = set_aside(folder, problems | converted.problems, skip_bad)
    # The classes come from all masks, not from those of the split, so that every split has the same ones. Masks that
    # are all empty still have one class to learn.
    seg_classes = number_classes(max((1, *converted.classes)))
    # Chosen before bad ones are left out, so that mending a file moves no other to another split.
    chosen = choose_split(table.rows, split, seed)
    stems = [stem for stem in chosen if stem not in bad][:samples]
    require_some(folder, split, len(table.rows), chosen, stems)
    return Dataset(
        name=f"folder:{folder}",
        records=tuple(
            Record(image=images[stem][0], mask=converted.files[stem], labels=table.rows[stem]) for stem in stems
        ),
        seg_classes=seg_classes,
        labels=table.names,
        grey=converted.grey,
        split_seed=seed,
        divided={"images": hash_names(table.rows)},
        notes=notes + _missing_classes(folder, converted, seg_classes),
    )


def _missing_classes(folder: Path, converted: ConvertedMasks, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return a warning where no mask shows a class that the data set has."""
    missing = [name for index, name in enumerate(names) if index and index not in converted.classes]
    return (f"warning: no mask of {folder} shows {', '.join(missing)}",) if missing else ()
