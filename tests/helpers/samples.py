"""Write small image files of awkward sizes, each with a mask."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipeline import DataError, Dataset, Record

SIZES = ((61, 97), (80, 64), (128, 50), (33, 35), (150, 210))


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draw an RGB picture (H, W, 3) with structure at several scales, so that a shifted or aliased copy differs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + rng.integers(-12, 13, (height, width, 3))
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def blob(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Draw a mask (H, W) of one ellipse near the middle."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    cy, cx = rng.uniform(0.4, 0.6, 2)
    return np.asarray(np.hypot((y - cy) / 0.25, (x - cx) / 0.3) < 1, np.uint8)


def make_dataset(folder: Path, count: int, suffix: str = ".png", sizes: tuple[tuple[int, int], ...] = SIZES) -> Dataset:
    """Write images with masks and labels, and return their data set."""
    records = []
    for index in range(count):
        height, width = sizes[index % len(sizes)]
        image, mask = folder / f"{index}{suffix}", folder / f"{index}_mask.png"
        Image.fromarray(picture(height, width, index)).save(image)
        Image.fromarray(blob(height, width, index)).save(mask)
        records.append(Record(image=image, mask=mask, labels=(index % 2, 1 - index % 2)))
    return Dataset(name="test", records=tuple(records), seg_classes=("background", "blob"), labels=("odd", "even"))


def assert_refused(opening: Callable[[], object], *problems: str) -> None:
    """Assert that opening a source raises one DataError of one line that lists all problems."""
    with pytest.raises(DataError) as caught:
        opening()
    message = str(caught.value)
    assert "\n" not in message
    for problem in problems:
        assert problem in message
