"""Test the readers on image files that other projects are tested with: each is read right, or refused in one line."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data_pipeline import ImageError, Preprocessing, Preprocessor
from data_pipeline.graph.reference import reference_resize
from tests.helpers.archives import ArchiveError, debian_archive, images_of, python_archive

SPEC = Preprocessing(image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
# What a package holds at least that is read, so that an empty archive does not pass.
PACKAGES: dict[str, tuple[Callable[[Path], bytes], int]] = {
    "Pillow": (lambda folder: python_archive("pillow"), 300),
    "imagecodecs": (lambda folder: python_archive("imagecodecs"), 20),
    "libpng": (lambda folder: debian_archive("libpng1.6", folder), 150),
    "libtiff": (lambda folder: debian_archive("tiff", folder), 15),
}


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_files_of_other_projects_are_read_right_or_refused(package: str, tmp_path: Path) -> None:
    fetch, least = PACKAGES[package]
    try:
        archive = fetch(tmp_path)
    except ArchiveError as error:
        pytest.skip(f"{package} cannot be fetched: {error}")
    serve, read, wrong = Preprocessor(SPEC), 0, {}
    for name, data in images_of(archive):
        try:
            served = [serve(data) for _ in range(2)]
        except ImageError as error:
            assert "\n" not in str(error), name
            continue
        np.testing.assert_array_equal(served[0], served[1], err_msg=name)
        expected = reference_resize(pixels(data), SPEC.image_size).transpose(2, 0, 1)
        read, difference = read + 1, float(np.abs(served[0] - expected).max())
        if difference > 2 / 255:
            wrong[name] = difference
    assert not wrong
    assert read >= least


def pixels(data: bytes) -> NDArray[np.float64]:
    """Read a file as (H, W, 3) shares of white: with Pillow, or where it gives up with tifffile or imagecodecs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return by_pillow(data)
        except (OSError, SyntaxError, ValueError):
            return by_others(data)


def by_pillow(data: bytes) -> NDArray[np.float64]:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        return colours(np.asarray(image).astype(np.uint16))
    # Dropped from RGBA, transparency leaves the colours as they are.
    transparent = image.mode in ("RGBA", "LA", "PA")
    return colours(np.asarray(image.convert("RGBA" if transparent else "RGB")))


def by_others(data: bytes) -> NDArray[np.float64]:
    if data[:2] not in (b"II", b"MM"):
        return colours(imagecodecs.imread(data))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        values = page.asarray()
        ordered = values if page.planarconfig == 1 or values.ndim == 2 else values.transpose(1, 2, 0)
        return colours(ordered, white=2**page.bitspersample - 1)


def colours(values: NDArray[Any], white: int | None = None) -> NDArray[np.float64]:
    """Return (H, W), or (H, W, channels) with alpha last, as (H, W, 3) shares of white."""
    shares = values.astype(np.float64) / (white or np.iinfo(values.dtype).max)
    grey = shares[..., None] if shares.ndim == 2 else shares[..., :1]
    return shares[..., :3] if shares.ndim == 3 and shares.shape[2] > 2 else np.repeat(grey, 3, axis=2)
