"""Test that masks of an image's own size lie where the image shows them."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data_pipeline.enlarge import enlarge, resize_planes
from data_pipeline.graph.reference import reference_resize


@pytest.mark.parametrize("size", [(300, 100), (51, 51), (77, 200), (20, 13)], ids=str)
def test_planes_are_interpolated_as_torch_does(size: tuple[int, int]) -> None:
    planes = np.random.default_rng(0).random((3, 51, 51)).astype(np.float32)
    width, height = size
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(planes)[None], (height, width), mode="bilinear", align_corners=False, antialias=True
    )
    np.testing.assert_allclose(resize_planes(planes, size), expected[0].numpy(), atol=2e-5)


@pytest.mark.parametrize("classes", [1, 4])
def test_masks_are_decided_from_the_resized_planes(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    planes = np.random.default_rng(1).random((classes, 32, 32)).astype(np.float32)
    resized = resize_planes(planes, (130, 90))
    expected = resized[0] > 0.5 if classes == 1 else resized.argmax(axis=0)
    # In strips of a few rows, as large images are.
    monkeypatch.setattr("data_pipeline.enlarge.STRIP_PIXELS", 130 * 7)
    # Strips round their places in single precision, which can turn pixels on the boundary.
    assert np.mean(enlarge(planes, (130, 90)) != expected) < 1e-3


@pytest.mark.parametrize("classes", [1, 3])
def test_at_the_network_s_size_the_mask_is_the_network_s(classes: int) -> None:
    planes = np.random.default_rng(2).random((classes, 32, 32)).astype(np.float32)
    expected = planes[0] > 0.5 if classes == 1 else planes.argmax(axis=0)
    np.testing.assert_array_equal(enlarge(planes, (32, 32)), expected)


def seen(drawn: NDArray[np.float64], side: int) -> NDArray[np.float32]:
    """Return a drawing (H, W) as a perfect network would answer: what each of its pixels sees, in (1, side, side)."""
    resized = reference_resize(drawn[..., None], side)[..., 0]
    # A small lesion is a faint one in the network's view. What counts here is where it lies.
    return np.asarray(resized[None] / resized.max(), np.float32)


def test_a_thin_diagonal_and_a_tiny_lesion_stay_where_they_are() -> None:
    height, width, side = 300, 1000, 64
    network_pixel = np.array([height / side, width / side])
    rows, columns = np.mgrid[:height, :width]
    for drawn in (
        np.abs(rows * width - columns * height) < 3 * width,  # from corner to corner
        (rows // 2 == 60) & (columns == 701),  # two pixels
    ):
        mask = enlarge(seen(drawn.astype(np.float64), side), (width, height))
        assert mask.any()
        shift = np.abs(np.argwhere(mask).mean(axis=0) - np.argwhere(drawn).mean(axis=0))
        assert (shift <= 0.5 * network_pixel).all()


def test_a_disc_is_smoother_than_one_that_is_enlarged_by_repeating_pixels() -> None:
    rows, columns = np.mgrid[:600, :900]
    disc = (rows - 290) ** 2 + (columns - 430) ** 2 < 170**2
    soft = seen(disc.astype(np.float64), 64)
    repeated = np.kron(soft[0] > 0.5, np.ones((10, 15), bool))[:600, :900]
    wrong = [
        np.mean(mask != disc) for mask in (enlarge(soft, (900, 600)).astype(bool), np.resize(repeated, disc.shape))
    ]
    assert wrong[0] < 0.002
    assert wrong[0] < 0.5 * wrong[1]
