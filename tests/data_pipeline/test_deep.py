"""Test that files of 16 bits keep their low byte on the way to the network, in training and in serving."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipeline import Dataset, Preprocessing, Preprocessor, Record, TrainingLoader
from data_pipeline.graph.reference import reference_preprocess
from tests.helpers.kinds import KINDS

SIZE = 48
SPEC = Preprocessing(image_size=SIZE, mean=(0.45, 0.45, 0.45), std=(0.2, 0.2, 0.2))

Values = NDArray[np.int64]
Pixels = NDArray[np.float32]


def grey_file(values: Values, suffix: str, folder: Path) -> Dataset:
    """Write a grey file of 16 bits with an empty mask."""
    image, mask = folder / f"deep{suffix}", folder / "mask.png"
    Image.fromarray(values.astype(np.uint16)).save(image)
    Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(mask)
    return Dataset(
        name="deep",
        records=(Record(image=image, mask=mask, labels=(0,)),),
        seg_classes=("background", "blob"),
        labels=("none",),
        grey=True,
    )


def inputs(data: Dataset, spec: Preprocessing) -> tuple[Pixels, Pixels]:
    """Return the network's input from serving, and from training without augmentation."""
    (trained,) = TrainingLoader(data, spec, batch_size=1, augment=False, shuffle=False, seed=0)
    return Preprocessor(spec)(data.records[0].image.read_bytes()), trained.image[0].numpy()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("base", [0, 30000, 65300], ids=["dark", "middle", "bright"])
def test_the_low_byte_is_kept(suffix: str, base: int, tmp_path: Path) -> None:
    # At 8 bits these would be two values at most.
    values = base + np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 230
    served, trained = inputs(grey_file(values, suffix, tmp_path), SPEC)
    assert np.array_equal(served, trained)
    restored = (served * 0.2 + 0.45) * 65535
    np.testing.assert_allclose(restored, np.broadcast_to(values, restored.shape), atol=0.05)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_twelve_bits_in_a_file_of_sixteen_fill_the_scale(suffix: str, tmp_path: Path) -> None:
    values = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) * 4095 // (SIZE * SIZE - 1)
    served, trained = inputs(grey_file(values, suffix, tmp_path), replace(SPEC, white_level=4095))
    assert np.array_equal(served, trained)
    restored = (served * 0.2 + 0.45) * 4095
    np.testing.assert_allclose(restored, np.broadcast_to(values, restored.shape), atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_the_white_level_changes_the_kinds_that_the_reference_says(kind: str) -> None:
    spec, data = replace(SPEC, white_level=40000), KINDS[kind]()
    np.testing.assert_allclose(Preprocessor(spec)(data), reference_preprocess(data, spec), atol=0.05)


def test_the_white_level_is_applied_to_augmented_images(tmp_path: Path) -> None:
    """Compare the middle of a flat image, which stays flat, so that only the drawn tone changes it."""
    data = grey_file(np.full((SIZE, SIZE), 2048), ".png", tmp_path)
    plain = Preprocessing(image_size=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), white_level=4095)
    (batch,) = TrainingLoader(data, plain, batch_size=1, augment=True, shuffle=False, seed=0)
    assert 0.3 < float(batch.image[0, :, 20:28, 20:28].mean()) < 0.7
