"""Test what is changed at random in training images, and that images of small lesions come more often."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline import Batch, DataError, Dataset, Preprocessing, Record, TrainingLoader, drop_bad
from data_pipeline.graph.artefacts import DRAWN, PICTURES, draw_overlay, picture
from data_pipeline.graph.augmentation import COLOUR, GREY, OCT, PAPER, SKIN, Augmentation, choose_ranges, draw_matrix
from data_pipeline.loader import MOST_OFTEN
from data_pipeline.prepare import prepare
from data_pipeline.sources.prepared import MANIFEST, open_prepared
from tests.helpers.samples import make_dataset

STILL = Augmentation(flip=0, rotation=0, scale=(1, 1), translation=0, brightness=0, contrast=0)
PLAIN = Preprocessing(image_size=48, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def epoch(dataset: Dataset, ranges: Augmentation, **options: object) -> list[Batch]:
    """Return one epoch of images in [0, 1], augmented by `ranges`."""
    chosen = {"shuffle": True, "seed": 5, "threads": 2} | options
    loader = TrainingLoader(dataset, PLAIN, batch_size=4, augment=True, **chosen)  # type: ignore[arg-type]
    loader.ranges = ranges
    return list(loader)


def images(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.image for batch in batches])


def masks(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.mask for batch in batches])


@pytest.mark.parametrize("kind", list(DRAWN))
def test_an_overlay_changes_the_image_where_it_lies_and_never_the_mask(dataset: Dataset, kind: str) -> None:
    bare, covered = epoch(dataset, STILL), epoch(dataset, replace(STILL, **{kind: 1.0}))  # type: ignore[arg-type]
    assert torch.equal(masks(bare), masks(covered))
    changed = (images(bare) - images(covered)).abs().amax(1) > 0.02
    shares = changed.float().mean((1, 2))
    # A part of a picture may be empty. Hardly any covers the image.
    assert (shares > 0).sum() >= len(shares) // 2
    assert shares.median() < 0.5


@pytest.mark.parametrize("kind", list(DRAWN))
def test_the_pictures_are_drawn_once_and_all_differ(kind: str) -> None:
    drawn = [picture(kind, number, 40) for number in range(PICTURES)]
    assert len({plane.tobytes() for plane in drawn}) == PICTURES
    again = picture.__wrapped__(kind, 0, 40)
    np.testing.assert_array_equal(again, drawn[0])
    for plane in drawn:
        # The light is a share of the cover.
        assert (plane[..., 1] <= plane[..., 0].astype(int) + 1).all() and plane[..., 0].any()


def test_nothing_lies_over_an_image_that_draws_no_artefact() -> None:
    assert not draw_overlay(np.random.default_rng(0), {"hair": 0.0, "ruler": 0.0}, 32).any()


def test_blur_takes_fine_structure_from_half_of_the_images(dataset: Dataset) -> None:
    sharp, blurred = (images(epoch(dataset, replace(STILL, blur=blur))) for blur in (0.0, 0.03))
    fine = [(x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)) for x in (sharp, blurred)]
    softened = fine[1] < 0.98 * fine[0]
    assert 0 < softened.sum() < len(softened)
    assert torch.allclose(sharp[~softened], blurred[~softened], atol=0.03)
    assert torch.allclose(sharp.mean((1, 2, 3)), blurred.mean((1, 2, 3)), atol=0.01)


@pytest.mark.parametrize(
    ("name", "grey", "ranges"),
    [
        ("synthetic:skin", False, SKIN),
        ("isic2017:some/folder", False, SKIN),
        ("synthetic:oct", True, OCT),
        ("retouch:some/folder", True, OCT),
        ("folder:skin", False, COLOUR),
        ("folder:oct", True, GREY),
    ],
)
def test_auto_is_by_what_the_source_is_known_to_show(
    dataset: Dataset, name: str, grey: bool, ranges: Augmentation
) -> None:
    data = replace(dataset, name=name, grey=grey)
    assert choose_ranges(data, "auto") == ranges
    assert choose_ranges(data, "basic") == (GREY if grey else COLOUR)


def test_the_paper_flips_and_rotates_alone() -> None:
    for number in range(20):
        matrix = draw_matrix(np.random.default_rng(number), PAPER, 50)[:2]
        np.testing.assert_allclose(matrix @ [25, 25, 1], 25, atol=1e-4)
        assert np.abs(np.linalg.det(matrix[:, :2])) == pytest.approx(1, abs=1e-4)
    assert PAPER.overlays == {} and not PAPER.brightness and not PAPER.contrast


@pytest.fixture
def sized(dataset: Dataset) -> Dataset:
    """Return 13 samples: one of 100 times smaller lesions, one without any, eleven of one size."""
    sizes = (0.001, 0.0, *[0.1] * 11)
    records = tuple(replace(record, smallest=size) for record, size in zip(dataset.records, sizes, strict=True))
    return replace(dataset, records=records)


def test_small_lesions_come_more_often_and_no_sample_is_forgotten(sized: Dataset) -> None:
    loader = TrainingLoader(
        sized, PLAIN, batch_size=5, augment=False, shuffle=True, seed=0, oversample_small=True, threads=1
    )
    visits = np.zeros(13)
    for _ in range(30):
        # Every epoch is as long as one that visits each sample once.
        drawn = torch.cat([batch.index for batch in loader])
        assert len(drawn) == 13
        visits += np.bincount(drawn, minlength=13)
    expected = 30 * 13 / (12 + MOST_OFTEN)
    np.testing.assert_allclose(visits[1:], expected, rtol=0.3)
    assert visits[0] == pytest.approx(MOST_OFTEN * expected, rel=0.15)


def test_a_first_visit_is_what_an_even_epoch_draws_and_a_second_differs(sized: Dataset) -> None:
    even = {int(i): x for batch in epoch(sized, SKIN) for i, x in zip(batch.index, batch.image, strict=True)}
    weighted = [
        (int(i), x)
        for batch in epoch(sized, SKIN, oversample_small=True)
        for i, x in zip(batch.index, batch.image, strict=True)
    ]
    visits = [x for i, x in weighted if i == 0]
    assert len(visits) >= 2
    assert torch.equal(visits[0], even[0]) and not torch.equal(visits[1], even[0])


@pytest.mark.parametrize("taken", [1, 3])
def test_a_weighted_epoch_resumes_to_the_bit(sized: Dataset, taken: int) -> None:
    def fresh(threads: int) -> TrainingLoader:
        chosen = {"augment": True, "augmentation": "skin", "oversample_small": True, "shuffle": True, "seed": 3}
        return TrainingLoader(sized, PLAIN, batch_size=4, threads=threads, **chosen)  # type: ignore[arg-type]

    straight, stopped, resumed = fresh(1), fresh(1), fresh(2)
    expected = [*straight, *straight]
    iterator = iter(stopped)
    for _ in range(taken):
        next(iterator)
    resumed.load_state_dict(stopped.state_dict())
    rest = [*resumed, *resumed]
    for batch, same in zip(rest, expected[taken:], strict=True):
        assert torch.equal(batch.index, same.index)
        assert torch.equal(batch.image, same.image) and torch.equal(batch.mask, same.mask)


def test_the_scan_measures_the_smallest_class(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    shares = {"none": {}, "one": {1: 40}, "two": {1: 40, 2: 6}, "full": {2: 400}}
    records = []
    for name, pixels in shares.items():
        mask = np.zeros(400, np.uint8)
        mask[: sum(pixels.values())] = np.repeat(list(pixels), list(pixels.values()))
        Image.fromarray(mask.reshape(20, 20)).save(folder / f"{name}_mask.png")
        Image.new("RGB", (20, 20)).save(folder / f"{name}.png")
        records.append(Record(image=folder / f"{name}.png", mask=folder / f"{name}_mask.png", labels=(0,)))
    data = Dataset(name="made", records=tuple(records), seg_classes=("background", "a", "b"), labels=("none",))
    # The second time from the cache.
    for _ in range(2):
        usable, _ = drop_bad(data, skip_bad=False, cache=tmp_path)
        assert [record.smallest for record in usable.records] == pytest.approx([0, 0.1, 0.015, 1])
    prepare(usable, 16, tmp_path / "out" / "train")
    assert [r.smallest for r in open_prepared(tmp_path / "out", "train", None).records] == pytest.approx(
        [0, 0.1, 0.015, 1]
    )


def test_sizes_that_were_not_measured_are_one_line(tmp_path: Path) -> None:
    prepare(make_dataset(tmp_path, 3), 48, tmp_path / "out" / "train")
    manifest = tmp_path / "out" / "train" / MANIFEST
    # As data were prepared before there were sizes.
    manifest.write_text(manifest.read_text().replace(', "smallest": null', ""))
    old = open_prepared(tmp_path / "out", "train", None)
    with pytest.raises(
        DataError, match=r"^test: the sizes of small lesions were not measured; prepare the data again$"
    ):
        TrainingLoader(old, PLAIN, batch_size=2, augment=True, shuffle=True, seed=0, oversample_small=True)
