"""Test that the training loader loses, repeats and shifts nothing, and that its samples depend only on their key."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from data_pipeline import Batch, DataError, Dataset, Preprocessing, Preprocessor, Record, TrainingLoader
from data_pipeline.graph.augmentation import COLOUR, GREY, OCT, SKIN, Augmentation, draw_matrix
from data_pipeline.graph.reference import reference_preprocess
from data_pipeline.graph.training import NO_PIXELS, training_pipeline
from data_pipeline.loader import read_reduced
from tests.helpers.samples import blob, make_dataset, picture


def plain(size: int) -> Preprocessing:
    """Return a specification that leaves values in [0, 1]."""
    return Preprocessing(image_size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def dataset_of(*records: Record) -> Dataset:
    return Dataset(name="made", records=records, seg_classes=("background", "blob"), labels=("none",))


def loader(dataset: Dataset, spec: Preprocessing, batch_size: int = 4, **options: object) -> TrainingLoader:
    chosen = {"augment": True, "shuffle": True, "seed": 7, "threads": 1} | options
    return TrainingLoader(dataset, spec, batch_size=batch_size, **chosen)  # type: ignore[arg-type]


def by_index(batches: list[Batch]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    return {int(i): (b.image[row], b.mask[row]) for b in batches for row, i in enumerate(b.index)}


@settings(max_examples=8, deadline=None)
@given(batch_size=st.integers(1, 20), shards=st.integers(1, 3), augment=st.booleans(), shuffle=st.booleans())
def test_three_epochs_lose_and_double_nothing(
    dataset: Dataset, spec: Preprocessing, batch_size: int, shards: int, augment: bool, shuffle: bool
) -> None:
    loaders = [
        loader(dataset, spec, batch_size, shard=(number, shards), augment=augment, shuffle=shuffle)
        for number in range(shards)
    ]
    for _ in range(3):
        lengths = [len(one) for one in loaders]
        epochs = [list(one) for one in loaders]
        assert lengths == [len(epoch) for epoch in epochs]
        seen = torch.cat([batch.index for epoch in epochs for batch in epoch])
        assert sorted(seen.tolist()) == list(range(len(dataset.records)))


def test_types_and_labels(dataset: Dataset, spec: Preprocessing) -> None:
    for batch in loader(dataset, spec, 5):
        count = len(batch.index)
        assert batch.image.shape == (count, 3, 48, 48) and batch.image.dtype == torch.float32
        assert batch.mask.shape == (count, 48, 48) and batch.mask.dtype == torch.int64
        assert set(batch.mask.flatten().tolist()) == {0, 1}
        assert batch.labels.tolist() == [list(dataset.records[i].labels) for i in batch.index.tolist()]


def test_without_augmentation_the_image_is_what_serving_computes(dataset: Dataset, spec: Preprocessing) -> None:
    serve = Preprocessor(spec)
    for index, (image, mask) in by_index(list(loader(dataset, spec, augment=False))).items():
        record = dataset.records[index]
        np.testing.assert_array_equal(image.numpy(), serve(record.image.read_bytes()))
        below, above = (nearest(np.asarray(Image.open(record.mask)), 48, nudge) for nudge in (-1e-4, 1e-4))
        assert ((mask.numpy() == below) | (mask.numpy() == above)).all()


def nearest(mask: NDArray[np.uint8], size: int, nudge: float) -> NDArray[np.uint8]:
    """Resize a mask by nearest neighbour, as a reference.

    The nudge decides for centres that fall exactly between two pixels, as some do from 64 to 48.
    """
    rows, columns = (np.floor((np.arange(size) + 0.5) * length / size + nudge).astype(int) for length in mask.shape)
    return mask[np.ix_(rows, columns)]


def test_a_sample_does_not_depend_on_batch_size_threads_or_shard(dataset: Dataset, spec: Preprocessing) -> None:
    whole = by_index(list(loader(dataset, spec, 13)))
    parts = [loader(dataset, spec, 3, threads=2, shard=(number, 2)) for number in (0, 1)]
    split = by_index([batch for part in parts for batch in part])
    assert whole.keys() == split.keys()
    assert all(torch.equal(a, b) for i in whole for a, b in zip(whole[i], split[i], strict=True))


def test_epochs_and_seeds_differ(dataset: Dataset, spec: Preprocessing) -> None:
    one = loader(dataset, spec)
    first, second = list(one), list(one)
    other = list(loader(dataset, spec, seed=8))
    for unlike in (second, other):
        assert [b.index.tolist() for b in first] != [b.index.tolist() for b in unlike]
        assert not torch.equal(by_index(first)[0][0], by_index(unlike)[0][0])


@pytest.mark.parametrize("taken", [1, 3, 4])
def test_resuming_in_the_middle_of_an_epoch_is_bit_exact(dataset: Dataset, spec: Preprocessing, taken: int) -> None:
    straight = loader(dataset, spec)
    expected = [*straight, *straight]
    interrupted, resumed = loader(dataset, spec), loader(dataset, spec, threads=2)
    iterator = iter(interrupted)
    for _ in range(taken):
        next(iterator)
    resumed.load_state_dict(interrupted.state_dict())
    rest = [*resumed, *(resumed if taken < len(straight) else [])]
    assert len(rest) == len(expected) - taken
    for batch, same in zip(rest, expected[taken:], strict=True):
        assert torch.equal(batch.index, same.index)
        assert torch.equal(batch.image, same.image) and torch.equal(batch.mask, same.mask)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_mask_and_image_stay_aligned(tmp_path: Path, suffix: str) -> None:
    """Pass the mask through as an image too, and compare the two: the IoU is at least 0.98 for files of any shape."""
    spec = plain(160)
    records = []
    for index, (height, width) in enumerate(((400, 400), (333, 517), (900, 410), (170, 180))):
        mask = blob(height, width, index)
        Image.fromarray(mask).save(tmp_path / f"{index}m.png")
        Image.fromarray(mask * 255).convert("RGB").save(tmp_path / f"{index}{suffix}", quality=100)
        records.append(Record(image=tmp_path / f"{index}{suffix}", mask=tmp_path / f"{index}m.png", labels=(0,)))
    data = dataset_of(*records)
    for _ in range(3):
        for batch in loader(data, spec):
            seen, drawn = batch.image.mean(1) > 0.5, batch.mask == 1
            overlap = (seen & drawn).sum((1, 2)) / (seen | drawn).sum((1, 2))
            assert overlap.min() >= 0.98, overlap


def test_the_matrix_turns_flips_and_shifts_about_the_centre() -> None:
    still = replace(COLOUR, flip=0.0, rotation=0.0, scale=(1.0, 1.0), translation=0.0)
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(draw_matrix(rng, still, 50)[:2], [[1, 0, 0], [0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(draw_matrix(rng, replace(still, flip=1.0), 50)[:2], [[-1, 0, 50], [0, 1, 0]], atol=1e-5)
    for _ in range(20):
        matrix = draw_matrix(rng, COLOUR, 50)[:2]
        moved = matrix @ [25, 25, 1] - 25
        assert np.abs(moved).max() <= 0.06 * 50 + 1e-4
        assert 1 / 1.2 <= np.sqrt(abs(np.linalg.det(matrix[:, :2]))) <= 1 / 0.85
        assert np.degrees(np.arcsin(abs(matrix[1, 0]) / np.hypot(*matrix[1, :2]))) <= 25.001


def test_exif_orientation_turns_image_and_mask_together(tmp_path: Path, spec: Preprocessing) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image, mask = picture(90, 60), blob(90, 60)
    upright, tagged = tmp_path / "upright", tmp_path / "tagged"
    for folder, turns, tag in ((upright, 0, Image.Exif()), (tagged, 1, exif)):
        folder.mkdir()
        # Stored a quarter turn to the left, and the tag says to turn it back to the right.
        Image.fromarray(np.ascontiguousarray(np.rot90(image, turns))).save(folder / "a.png", exif=tag)
        Image.fromarray(np.ascontiguousarray(np.rot90(mask, turns))).save(folder / "a_mask.png", exif=tag)
    records = [Record(image=folder / "a.png", mask=folder / "a_mask.png", labels=(1,)) for folder in (upright, tagged)]
    data = dataset_of(*records)
    (batch,) = loader(data, spec, augment=False, shuffle=False)
    assert torch.equal(batch.image[0], batch.image[1])
    assert torch.equal(batch.mask[0], batch.mask[1])
    assert 0 < batch.mask[0].sum() < batch.mask[0].numel()


@pytest.mark.parametrize(("height", "width"), [(384, 512), (200, 201), (950, 333)])
def test_reduced_decoding_stays_within_two_of_255(tmp_path: Path, height: int, width: int) -> None:
    """Run the whole augmenting graph with parameters that change nothing."""
    size, path, mask = 96, tmp_path / "a.jpg", tmp_path / "a.png"
    Image.fromarray(picture(height, width)).save(path, quality=90)
    Image.fromarray(blob(height, width)).save(mask)
    assert size <= min(read_reduced(path.read_bytes(), size).shape[:2]) < min(height, width)
    still = loader(dataset_of(Record(image=path, mask=mask, labels=(0,))), plain(size))
    still.ranges = Augmentation(flip=0, rotation=0, scale=(1, 1), translation=0, brightness=0, contrast=0)
    (batch,) = still
    expected = reference_preprocess(path.read_bytes(), still.spec)
    assert np.abs(batch.image[0].numpy() - expected).mean() * 255 < 2


def test_only_large_whole_jpegs_are_reduced(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(100, 100)).save(path)
    assert read_reduced(path.read_bytes(), 51) is NO_PIXELS
    assert read_reduced(path.read_bytes(), 50) is not NO_PIXELS
    path.write_bytes(path.read_bytes()[:900])
    assert read_reduced(path.read_bytes(), 50) is NO_PIXELS


def test_grey_data_get_gamma_and_speckle_but_no_colour(dataset: Dataset, tmp_path: Path) -> None:
    grey = tmp_path / "grey.png"
    Image.fromarray(picture(64, 64)).convert("L").save(grey)
    record = Record(image=grey, mask=dataset.records[0].mask, labels=(0, 0))
    spec = plain(64)
    (batch,) = loader(replace(dataset, records=(record,), grey=True), spec)
    assert torch.allclose(batch.image[0, 0], batch.image[0, 2], atol=1e-5)
    assert GREY.gamma and GREY.speckle and not GREY.hue


def test_an_unreadable_file_is_named(dataset: Dataset, spec: Preprocessing, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(dataset.records[0].image.read_bytes()[:500])
    records = (*dataset.records[:6], replace(dataset.records[0], image=broken))
    with pytest.raises(DataError, match=r"broken\.png: .*the PNG file ends"):
        list(loader(replace(dataset, records=records), spec, 2, shuffle=False))


def test_the_gpu_training_graph_is_built_and_serialised_without_a_gpu(spec: Preprocessing) -> None:
    for ranges in (None, COLOUR, GREY, SKIN, OCT):
        pipeline = training_pipeline(iter(()), spec, ranges, "gpu", batch_size=2, num_threads=1, device_id=None)
        assert b"mixed" in pipeline.serialize()


def test_a_gpu_decodes_large_jpegs_by_itself(tmp_path: Path) -> None:
    Image.fromarray(picture(100, 100)).save(tmp_path / "a.jpg")
    Image.fromarray(blob(100, 100)).save(tmp_path / "a.png")
    data = dataset_of(Record(image=tmp_path / "a.jpg", mask=tmp_path / "a.png", labels=(0,)))
    pixels = {device: loader(data, plain(32), device=device)._sample(0, 0, 0)[2] for device in ("cpu", "gpu")}
    assert pixels["gpu"] is NO_PIXELS and pixels["cpu"].shape == (50, 50, 3)


def test_threads_follow_the_machine(dataset: Dataset, spec: Preprocessing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipeline.loader.cores", lambda: 48)
    assert loader(dataset, spec, threads=None).threads == 48
    # torchrun's number of processes on this machine.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    assert loader(dataset, spec, threads=None).threads == 9


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives(tmp_path: Path, spec: Preprocessing) -> None:
    data = make_dataset(tmp_path, 6)
    for augment in (False, True):
        cpu, gpu = (by_index(list(loader(data, spec, augment=augment, device=device))) for device in ("cpu", "gpu"))
        for index in cpu:
            assert (cpu[index][0] - gpu[index][0].cpu()).abs().mean() < 0.1 / 255 / 0.2
            assert (cpu[index][1] != gpu[index][1].cpu()).float().mean() < 1e-3
