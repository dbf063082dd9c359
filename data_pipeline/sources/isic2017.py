"""`isic2017:DIR`: the challenge's own folders and tables, as unpacked side by side, with its own three splits."""

from pathlib import Path

from data_pipeline.records import BACKGROUND, DataError, Dataset, Record, Split
from data_pipeline.sources.masks import convert_masks
from data_pipeline.sources.pairing import Table, by_stem, read_labels, refuse, unpaired

PARTS: dict[Split, str] = {"train": "Training", "validation": "Validation", "test": "Test_v2"}
DIAGNOSES = ("melanoma", "seborrheic_keratosis")
SEG_CLASSES = (BACKGROUND, "lesion")


def open_isic2017(folder: Path, split: Split, samples: int | None, cache: Path) -> Dataset:
    """The first `samples` records of an official split; DataError lists every problem.

    Labels are melanoma, seborrheic keratosis and nevus: in 2017 every lesion that is neither of the first two.
    """
    part = f"ISIC-2017_{PARTS[split]}"
    data, truth = folder / f"{part}_Data", folder / f"{part}_Part1_GroundTruth"
    file = folder / f"{part}_Part3_GroundTruth.csv"
    refuse(folder, {"official names missing": [path.name for path in (data, truth, file) if not path.exists()]})
    table = _diagnoses(file)
    rows = table.rows
    layout = "the archives of ISIC 2017 must be unpacked under their own names"
    images = by_stem(data, layout, "ISIC_*.jpg")  # the superpixels and the metadata beside them are not used
    masks = by_stem(truth, layout, "ISIC_*_segmentation.png", ending="_segmentation")
    pairs = {stem: (images[stem], masks[stem]) for stem in images.keys() & masks.keys()}
    converted = convert_masks(pairs, cache, classes=len(SEG_CLASSES))
    refuse(folder, table.problems | unpaired(rows, images, masks, file.name) | converted.problems)
    stems = sorted(rows)[:samples]
    if not stems:
        raise DataError(f"{file} lists no image: the {split} split is empty")
    records = tuple(Record(images[stem], converted.files[stem], rows[stem]) for stem in stems)
    return Dataset(f"isic2017:{folder}", records, SEG_CLASSES, table.names)


def _diagnoses(path: Path) -> Table:
    """The labels of each image, nevus added; one that is called both kinds of lesion is a problem."""
    table = read_labels(path, "image_id")
    if table.names != DIAGNOSES:
        raise DataError(f"{path}: the columns must be image_id, {', '.join(DIAGNOSES)}; found {', '.join(table.names)}")
    both = {f"images with both diagnoses in {path.name}": [stem for stem, row in table.rows.items() if sum(row) > 1]}
    rows = {stem: (*row, int(not any(row))) for stem, row in table.rows.items()}
    return Table((*DIAGNOSES, "nevus"), rows, table.problems | both)
