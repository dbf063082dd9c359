"""Open `isic2017:DIR`, the challenge's archives unpacked into one folder, with the official splits."""

from pathlib import Path

from data_pipeline.records import BACKGROUND, DataError, Dataset, Record, Split
from data_pipeline.sources.masks import convert_masks
from data_pipeline.sources.pairing import (
    Table,
    files_by_stem,
    find_rivals,
    find_unpaired,
    raise_problems,
    read_labels,
    require_some,
    set_aside,
)

NAMES: dict[Split, str] = {"train": "Training", "validation": "Validation", "test": "Test_v2"}
DIAGNOSES = ("melanoma", "seborrheic_keratosis")
SEG_CLASSES = (BACKGROUND, "lesion")


def open_isic2017(folder: Path, split: Split, samples: int | None, cache: Path, skip_bad: bool = False) -> Dataset:
    """Return the records of an official split, ordered by name.

    The labels are melanoma, seborrheic keratosis and nevus.

    Args:
        folder: holds the unpacked archives under their own names.
        split: which split.
        samples: at most this many records.
        cache: folder of converted masks.
        skip_bad: whether to leave out what has a problem.

    Raises:
        DataError: files or rows are missing, repeated or wrong. The message lists every problem.
    """
    part = f"ISIC-2017_{NAMES[split]}"
    image_folder, mask_folder = (_unpacked(folder / f"{part}_{name}") for name in ("Data", "Part1_GroundTruth"))
    file = folder / f"{part}_Part3_GroundTruth.csv"
    missing = [path.name for path in (image_folder, mask_folder, file) if not path.exists()]
    raise_problems(folder, {"official names missing": missing})
    table = _diagnoses(file)
    rows = table.rows
    layout = "the archives of ISIC 2017 must be unpacked under their own names"
    # The archive of images also holds a superpixel PNG for each image and a CSV of metadata, which are not used.
    images = files_by_stem(image_folder, layout, "ISIC_*.jpg")
    masks = files_by_stem(mask_folder, layout, "ISIC_*_segmentation.png", ending="_segmentation")
    pairs = {stem: (images[stem][0], masks[stem][0]) for stem in images.keys() & masks.keys()}
    converted = convert_masks(pairs, cache, classes=len(SEG_CLASSES))
    problems = table.problems | find_unpaired(rows, images, masks, file.name) | converted.problems
    problems |= {"images that share their name with another": find_rivals(images)}
    bad, notes = set_aside(folder, problems, skip_bad)
    stems = [stem for stem in sorted(rows) if stem not in bad][:samples]
    require_some(file, split, len(rows), rows, stems)
    return Dataset(
        name=f"isic2017:{folder}",
        records=tuple(Record(image=images[stem][0], mask=converted.files[stem], labels=rows[stem]) for stem in stems),
        seg_classes=SEG_CLASSES,
        labels=table.names,
        notes=notes,
    )


def _unpacked(folder: Path) -> Path:
    """Return an archive's folder, or the one of the same name in it, as some programs unpack it."""
    inner = folder / folder.name
    return inner if inner.is_dir() else folder


def _diagnoses(path: Path) -> Table:
    """Read the labels of each image, and add nevus to them.

    An image with both diagnoses is a problem, because a lesion has one.
    """
    table = read_labels(path, "image_id")
    if table.names != DIAGNOSES:
        raise DataError(f"{path}: the columns must be image_id, {', '.join(DIAGNOSES)}; found {', '.join(table.names)}")
    both = {f"images with both diagnoses in {path.name}": [stem for stem, row in table.rows.items() if sum(row) > 1]}
    # In 2017 every lesion that is neither of the first two is a nevus, and the table has no column for it.
    rows = {stem: (*row, int(not any(row))) for stem, row in table.rows.items()}
    return Table((*DIAGNOSES, "nevus"), rows, table.problems | both)
