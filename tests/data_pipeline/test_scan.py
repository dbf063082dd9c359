"""Test that bad samples are found together before training, and that the others can be trained on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from data_pipeline import (
    DataError,
    Dataset,
    Preprocessing,
    Preprocessor,
    Record,
    TrainingLoader,
    drop_bad,
    open_splits,
    scan_samples,
)
from data_pipeline import scan as scan_module
from data_pipeline.prepare import prepare
from tests.helpers.kinds import BAD, JPEG, KINDS
from tests.helpers.samples import assert_refused, blob, make_dataset, picture


@pytest.fixture
def broken(tmp_path: Path) -> Dataset:
    """Write 40 samples of which 5 are bad, each in another way."""
    folder = tmp_path / "data"
    folder.mkdir()
    data = make_dataset(folder, 40)
    whole = data.records[3].image.read_bytes()
    data.records[3].image.write_bytes(whole[: len(whole) // 2])
    data.records[8].image.write_bytes(b"")
    data.records[17].mask.unlink()
    Image.fromarray(blob(20, 20)).save(data.records[18].mask)
    Image.fromarray(np.full((33, 35), 2, np.uint8)).save(data.records[38].mask)
    return data


BROKEN = (3, 8, 17, 18, 38)


def test_every_bad_sample_is_reported_at_once_with_its_reason(broken: Dataset, tmp_path: Path) -> None:
    bad = scan_samples(broken, cache=tmp_path)
    assert [sample.record for sample in bad] == [broken.records[i] for i in BROKEN]
    reasons = [sample.reason for sample in bad]
    assert "image: the image is damaged" in reasons[0]
    assert reasons[1] == "image: the image is empty (0 bytes)"
    assert "the mask" in reasons[2] and "missing" in reasons[2]
    assert reasons[3] == "the image is 35 x 33, its mask 20 x 20"
    assert reasons[4] == "the mask holds class 2, the data set has classes 0 to 1"


def test_without_skip_bad_nothing_is_trained(broken: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^5 of 40 samples cannot be used \(--skip-bad") as caught:
        drop_bad(broken, skip_bad=False, cache=tmp_path)
    assert len(str(caught.value).splitlines()) == 6


def test_skip_bad_trains_on_exactly_the_good_ones(broken: Dataset, spec: Preprocessing, tmp_path: Path) -> None:
    good, bad = drop_bad(broken, skip_bad=True, cache=tmp_path)
    assert (len(good.records), len(bad)) == (35, 5)
    batches = list(TrainingLoader(good, spec, batch_size=8, augment=True, shuffle=True, seed=0))
    assert sorted(int(i) for b in batches for i in b.index) == list(range(35))


def test_a_data_set_of_bad_samples_alone_is_named(broken: Dataset, tmp_path: Path) -> None:
    alone = replace(broken, records=tuple(broken.records[index] for index in BROKEN))
    with pytest.raises(
        DataError, match=r"^none of the 5 samples of test can be used, first .*3\.png: image: "
    ) as caught:
        drop_bad(alone, skip_bad=True, cache=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": [1, "b"]}', "null"])
def test_damaged_results_are_found_again(content: str, broken: Dataset, tmp_path: Path) -> None:
    (tmp_path / "scan.json").write_text(content)
    assert len(scan_samples(replace(broken, records=broken.records[:4]), cache=tmp_path)) == 1
    assert len(json.loads((tmp_path / "scan.json").read_text())) == 4


def test_results_are_kept_by_content(broken: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan_samples(broken, cache=tmp_path)
    examined: list[int] = []
    original = scan_module.examine

    def counting(records: list[object], *rest: int) -> list[scan_module.Finding]:
        examined.append(len(records))
        return original(records, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(scan_module, "examine", counting)
    written = (tmp_path / "scan.json").stat()
    assert len(scan_samples(broken, cache=tmp_path)) == 5
    assert examined == []
    # Nothing new is nothing to write, also on a disk that is full or read-only.
    assert (tmp_path / "scan.json").stat() == written
    Image.fromarray(picture(*np.asarray(Image.open(broken.records[8].mask)).shape)).save(broken.records[8].image)
    assert len(scan_samples(broken, cache=tmp_path)) == 4
    assert examined == [1]


def test_another_class_changes_the_result(broken: Dataset, tmp_path: Path) -> None:
    scan_samples(broken, cache=tmp_path)
    wider = replace(broken, seg_classes=("background", "blob", "ring"))
    assert len(scan_samples(wider, cache=tmp_path)) == 4


def test_each_kind_of_file_is_trained_on_as_it_is_served(spec: Preprocessing, tmp_path: Path) -> None:
    serve = Preprocessor(spec)
    served = {kind: serve(make()) for kind, make in KINDS.items()}
    data = dataset_of({kind: make() for kind, make in KINDS.items()}, tmp_path)
    good, bad = drop_bad(data, skip_bad=False, cache=tmp_path)
    assert (len(good.records), bad) == (len(KINDS), ())
    plain, augmented = (
        list(TrainingLoader(good, spec, batch_size=4, augment=augment, shuffle=False, seed=0))
        for augment in (False, True)
    )
    for image, kind in zip(torch.cat([batch.image for batch in plain]), KINDS, strict=True):
        np.testing.assert_array_equal(image.numpy(), served[kind], err_msg=kind)
    assert all(torch.isfinite(batch.image).all() for batch in augmented)


def test_each_kind_of_bad_file_is_found_before_training(tmp_path: Path) -> None:
    data = dataset_of({**BAD, "good": JPEG}, tmp_path)
    assert {sample.record.image.name for sample in scan_samples(data, cache=tmp_path)} == set(BAD)


def dataset_of(files: dict[str, bytes], folder: Path) -> Dataset:
    """Write one record for each file, with a mask of the size that the file decodes to, or of any for a bad one."""
    records = []
    for kind, content in files.items():
        (folder / kind).write_bytes(content)
        size = (110, 75) if kind in BAD else ImageOps.exif_transpose(Image.open(folder / kind)).size
        Image.fromarray(blob(size[1], size[0])).save(folder / f"{kind}.mask.png")
        records.append(Record(image=folder / kind, mask=folder / f"{kind}.mask.png", labels=(1,)))
    return Dataset(name="kinds", records=tuple(records), seg_classes=("background", "blob"), labels=("one",))


@pytest.mark.parametrize(
    ("change", "what", "found"),
    [
        ({"name": "folder:other"}, "source, train has test", "/other"),
        ({"divided": {"images": "abc"}}, "names in the source, train has images 123", "images abc"),
        ({"split_seed": 4}, "seed of the split, train has None", "4"),
        ({"seg_classes": ("background", "blob", "more")}, "mask classes, train has background, blob", "more"),
        ({"labels": ("even", "odd")}, "labels, train has odd, even", "even, odd"),
    ],
)
def test_splits_that_were_prepared_differently_are_refused(
    change: dict[str, object], what: str, found: str, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    source = replace(make_dataset(tmp_path / "data", 4), divided={"images": "123"})
    opening = {"skip_bad": False, "report": print, "cache": tmp_path}
    prepare(source, 32, tmp_path / "out" / "train")
    for split in ("validation", "test"):
        prepare(source, 32, tmp_path / "out" / split)
    samples = {"train": 3, "validation": None, "test": None}
    splits = open_splits(f"prepared:{tmp_path / 'out'}", samples, **opening)  # type: ignore[arg-type]
    assert [len(dataset.records) for dataset in splits.values()] == [3, 4, 4]
    # What an older version has prepared does not tell the names.
    prepare(replace(source, divided={}), 32, tmp_path / "out" / "test")
    assert len(open_splits(f"prepared:{tmp_path / 'out'}", samples, **opening)) == 3  # type: ignore[arg-type]
    prepare(replace(source, **change), 32, tmp_path / "out" / "test")  # type: ignore[arg-type]
    assert_refused(
        lambda: open_splits(f"prepared:{tmp_path / 'out'}", samples, **opening),  # type: ignore[arg-type]
        f"all splits must have the same {what} and test has ",
        f"{found}; prepare both with the same options",
    )
