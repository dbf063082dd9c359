"""Test that `isic2017:DIR` reads the official files as they are unpacked, and lists all problems at once."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline import DataError, Dataset, open_source, scan_samples
from tests.helpers.challenges import write_isic2017
from tests.helpers.samples import assert_refused, blob

TRAIN = "ISIC-2017_Training"


def opened(folder: Path, split: str = "train", samples: int | None = None) -> Dataset:
    return open_source(f"isic2017:{folder}", split, samples=samples, cache=folder / "cache")  # type: ignore[arg-type]


def test_the_official_splits_are_read_as_they_are(tmp_path: Path) -> None:
    write_isic2017(tmp_path)
    for offset, split in enumerate(("train", "validation", "test")):
        data = opened(tmp_path, split)
        assert [record.image.name for record in data.records] == [f"ISIC_{1000 * offset + i:07d}.jpg" for i in range(5)]
        assert data.labels == ("melanoma", "seborrheic_keratosis", "nevus") and not data.grey
        assert [record.labels for record in data.records] == [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0)]
        for index, record in enumerate(data.records):
            assert np.array_equal(np.asarray(Image.open(record.mask)), blob(61 + 7 * index, 97, index))
        assert not scan_samples(data, cache=tmp_path / "cache")
    assert len(opened(tmp_path, samples=2).records) == 2


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    write_isic2017(tmp_path)
    images, masks = tmp_path / f"{TRAIN}_Data", tmp_path / f"{TRAIN}_Part1_GroundTruth"
    (masks / "ISIC_0000000_segmentation.png").unlink()
    Image.fromarray(blob(9, 9)).save(masks / "ISIC_0000001_segmentation.png")
    Image.fromarray(blob(75, 97) * 7).save(masks / "ISIC_0000002_segmentation.png")
    (images / "ISIC_0000003.jpg").rename(images / "ISIC_0000009.jpg")
    assert_refused(
        lambda: opened(tmp_path),
        "2 images without a mask: ISIC_0000000, ISIC_0000009",
        f"1 images without a row in {TRAIN}_Part3_GroundTruth.csv: ISIC_0000009",
        f"1 rows of {TRAIN}_Part3_GroundTruth.csv without an image: ISIC_0000003",
        "1 masks of another size than their image (9 x 9, and 97 x 68 of the image): ISIC_0000001",
        "1 masks with class indices over 1: ISIC_0000002",
    )


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        (
            "image_id,melanoma,seborrheic_keratosis\nISIC_0000000,0.5,0\n",
            f"1 rows of {TRAIN}_Part3_GroundTruth.csv with values other than 0 or 1 "
            "(melanoma is '0.5' for ISIC_0000000; write 0 or 1): ISIC_0000000",
        ),
        ("image_id,melanoma,seborrheic_keratosis\nISIC_0000000,1.0,1.0\n", "1 images with both diagnoses"),
        ("image_id,MEL,SK\nISIC_0000000,1.0,0.0\n", "the columns must be image_id, melanoma, seborrheic_keratosis"),
        ("image,melanoma,seborrheic_keratosis\n", "the first line must be 'image_id'"),
        ("image_id,melanoma,seborrheic_keratosis\n", "5 images without a row"),
    ],
)
def test_wrong_tables(tmp_path: Path, rows: str, part: str) -> None:
    (write_isic2017(tmp_path) / f"{TRAIN}_Part3_GroundTruth.csv").write_text(rows)
    with pytest.raises(DataError) as caught:
        opened(tmp_path)
    assert part in str(caught.value)


def test_what_is_not_unpacked_is_named(tmp_path: Path) -> None:
    shutil.rmtree(write_isic2017(tmp_path) / f"{TRAIN}_Data")
    (tmp_path / f"{TRAIN}_Part3_GroundTruth.csv").unlink()
    with pytest.raises(DataError, match=rf"2 official names missing: {TRAIN}_Data, {TRAIN}_Part3_GroundTruth\.csv"):
        opened(tmp_path)
    assert len(opened(tmp_path, "validation").records) == 5
