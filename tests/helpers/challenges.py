"""Write small data sets in the files, folders and tables of the challenges."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from PIL import Image

from tests.helpers.samples import blob, picture

ISIC_PARTS = {"train": "Training", "validation": "Validation", "test": "Test_v2"}


def write_isic2017(folder: Path, count: int = 5) -> Path:
    """Write `count` images a split as ISIC 2017 names them, with the files that are not used.

    Of three images in a row the first is a melanoma, the second a seborrheic keratosis and the third a nevus.
    """
    for offset, part in enumerate(ISIC_PARTS.values()):
        images, masks = folder / f"ISIC-2017_{part}_Data", folder / f"ISIC-2017_{part}_Part1_GroundTruth"
        images.mkdir()
        masks.mkdir()
        rows = []
        for index in range(count):
            name, height = f"ISIC_{1000 * offset + index:07d}", 61 + 7 * index
            Image.fromarray(picture(height, 97, index)).save(images / f"{name}.jpg", quality=95)
            Image.fromarray(picture(height, 97, index)).save(images / f"{name}_superpixels.png")
            Image.fromarray(255 * blob(height, 97, index)).save(masks / f"{name}_segmentation.png")
            rows.append(f"{name},{float(index % 3 == 0)},{float(index % 3 == 1)}")
        (images / f"ISIC-2017_{part}_Data_metadata.csv").write_text("image_id,age_approximate,sex\n")
        table = folder / f"ISIC-2017_{part}_Part3_GroundTruth.csv"
        table.write_text("\n".join(["image_id,melanoma,seborrheic_keratosis", *rows]) + "\n")
    return folder


# (slices, H, W), type and whether compressed. The vendors differ in all three.
VENDORS: dict[str, tuple[tuple[int, int, int], type, bool]] = {
    "Cirrus": ((4, 61, 33), np.uint8, False),
    "Spectralis": ((3, 40, 37), np.uint16, True),
    "Topcon": ((5, 45, 33), np.uint8, True),
}


def write_retouch(folder: Path, count: int = 10) -> Path:
    """Write `count` volumes a vendor, with the fluids of `fluids`."""
    for vendor, (shape, kind, compressed) in VENDORS.items():
        for number in range(1, count + 1):
            place = folder / f"RETOUCH-TrainingSet-{vendor}" / f"TRAIN{number:03d}"
            place.mkdir(parents=True)
            pixels: NDArray[Any] = np.random.default_rng(number).integers(0, np.iinfo(kind).max, shape).astype(kind)
            write_volume(place / "oct.mhd", pixels, compressed)
            write_volume(place / "reference.mhd", fluids(shape, number), compressed)
    return folder


def fluids(shape: tuple[int, int, int], number: int) -> NDArray[np.uint8]:
    """Draw a reference in which fluid k is a box in slice k % slices, if k divides the volume's number."""
    classes = np.zeros(shape, np.uint8)
    for value in (1, 2, 3):
        if number % value == 0:
            classes[value % shape[0], 10 * value : 10 * value + 5, 4 : 4 + number] = value
    return classes


def write_volume(path: Path, values: NDArray[Any], compressed: bool = False) -> None:
    """Write (slices, H, W) as an .mhd file with its .raw or .zraw file, at a spacing of (0.012, 0.004, 0.12) mm."""
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing((0.012, 0.004, 0.12))
    SimpleITK.WriteImage(image, str(path), compressed)
