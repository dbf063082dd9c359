"""Small data sets in the files, folders and tables of the challenges."""

from pathlib import Path

from PIL import Image

from tests.data_pipeline.samples import blob, picture

ISIC_PARTS = {"train": "Training", "validation": "Validation", "test": "Test_v2"}


def write_isic2017(folder: Path, count: int = 5) -> Path:
    """`count` images a split: every third a melanoma, every next a seborrheic keratosis, and what lies beside them."""
    for offset, part in enumerate(ISIC_PARTS.values()):
        data, truth = folder / f"ISIC-2017_{part}_Data", folder / f"ISIC-2017_{part}_Part1_GroundTruth"
        data.mkdir()
        truth.mkdir()
        rows = []
        for index in range(count):
            name, height = f"ISIC_{1000 * offset + index:07d}", 61 + 7 * index
            Image.fromarray(picture(height, 97, index)).save(data / f"{name}.jpg", quality=95)
            Image.fromarray(picture(height, 97, index)).save(data / f"{name}_superpixels.png")
            Image.fromarray(255 * blob(height, 97, index)).save(truth / f"{name}_segmentation.png")
            rows.append(f"{name},{float(index % 3 == 0)},{float(index % 3 == 1)}")
        (data / f"ISIC-2017_{part}_Data_metadata.csv").write_text("image_id,age_approximate,sex\n")
        table = folder / f"ISIC-2017_{part}_Part3_GroundTruth.csv"
        table.write_text("\n".join(["image_id,melanoma,seborrheic_keratosis", *rows]) + "\n")
    return folder
