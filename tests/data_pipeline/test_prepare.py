"""Test that prepared data give the same training pixels, are verified and can be resumed."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from data_pipeline import Batch, DataError, Dataset, Preprocessing, TrainingLoader
from data_pipeline.files import locked
from data_pipeline.prepare import JOURNAL, main, prepare
from data_pipeline.sources.prepared import MANIFEST, open_prepared
from tests.helpers.samples import assert_refused, make_dataset, picture


@pytest.fixture
def source(tmp_path: Path) -> Dataset:
    (tmp_path / "source").mkdir()
    return make_dataset(tmp_path / "source", 19)


def one_epoch(dataset: Dataset, augment: bool) -> list[Batch]:
    # So that differences are in steps of 8 bits.
    spec = Preprocessing(image_size=48, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
    return list(TrainingLoader(dataset, spec, batch_size=5, augment=augment, shuffle=True, seed=1))


@pytest.mark.parametrize("augment", [False, True])
def test_training_on_prepared_data_equals_training_on_the_files(source: Dataset, tmp_path: Path, augment: bool) -> None:
    assert prepare(source, 48, tmp_path / "out" / "train") == 19
    prepared = open_prepared(tmp_path / "out", "train", None)
    assert replace(prepared, prepared=None) == source
    for direct, stored in zip(one_epoch(source, augment), one_epoch(prepared, augment), strict=True):
        assert torch.equal(direct.index, stored.index) and torch.equal(direct.labels, stored.labels)
        difference = (direct.image - stored.image).abs()
        # Rounding to bytes costs half a step each time: once when pixels are stored, and again when such pixels are
        # warped, enlarged by a contrast of up to 1.15, a brightness of up to 1.12 and a saturation of up to 1.15.
        assert difference.max() <= (1.5 if augment else 0.501)
        assert difference.mean() <= (0.4 if augment else 0.26)
        assert (direct.mask != stored.mask).float().mean() <= (0.005 if augment else 0.001)


def test_an_interrupted_run_goes_on_and_a_second_one_decodes_nothing(
    source: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_pipeline import prepare as module

    decode, calls = module._decode, 0

    def fails_on_the_second(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        decode(*arguments)  # type: ignore[arg-type]

    folder = tmp_path / "out" / "train"
    monkeypatch.setattr(module, "_decode", fails_on_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, 48, folder)
    assert not (folder / MANIFEST).exists()
    with pytest.raises(DataError, match="no finished prepared data"):
        open_prepared(tmp_path / "out", "train", None)
    monkeypatch.undo()
    assert prepare(source, 48, folder) == 3
    assert prepare(source, 48, folder) == 0


def test_two_runs_into_one_folder_are_refused(source: Dataset, tmp_path: Path) -> None:
    prepare(source, 48, tmp_path / "out" / "train")
    with locked(tmp_path / "out" / "train"), pytest.raises(DataError, match="is being prepared by another process"):
        prepare(source, 48, tmp_path / "out" / "train")
    assert len(open_prepared(tmp_path / "out", "train", None).records) == 19


def fail_to_reserve(monkeypatch: pytest.MonkeyPatch, code: int, size: int) -> None:
    """Let the reservation of disk space fail for files of more than `size` bytes."""

    def reserve(_: int, offset: int, length: int) -> None:
        if offset + length > size:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", reserve, raising=False)


def test_a_full_disk_is_told_in_one_line_and_left_as_it_was(
    source: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("data_pipeline.prepare.open_usable", lambda *_, **__: source)
    command = ["--data", "folder:data", "--size", "48", "--split", "train", "--output", str(tmp_path / "out")]
    # Room for the images, and none for the masks, which are three times as large.
    fail_to_reserve(monkeypatch, errno.ENOSPC, 200_000)
    assert main(command) == 1
    message = f"No space left on device: '{tmp_path / 'out' / 'train' / 'masks.npy'}'\n"
    assert capsys.readouterr().err == f"error: [Errno {errno.ENOSPC}] {message}"
    assert list((tmp_path / "out" / "train").iterdir()) == []
    # A file system that cannot reserve.
    fail_to_reserve(monkeypatch, errno.EOPNOTSUPP, 0)
    assert main(command) == 0
    # What a run before has written stays, which did not reserve.
    fail_to_reserve(monkeypatch, errno.ENOSPC, 0)
    with pytest.raises(OSError, match=r"images\.npy"):
        prepare(source, 48, tmp_path / "out" / "train")
    monkeypatch.undo()
    assert prepare(source, 48, tmp_path / "out" / "train") == 0


def test_pixels_of_another_code_are_decoded_again(
    source: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(source, 48, tmp_path / "out" / "train")
    monkeypatch.setattr("data_pipeline.prepare.VERSION", "another")
    assert prepare(source, 48, tmp_path / "out" / "train") == 19


def test_a_changed_file_is_decoded_again(source: Dataset, tmp_path: Path) -> None:
    prepare(source, 48, tmp_path)
    Image.fromarray(picture(61, 97, seed=99)).save(source.records[0].image)
    assert prepare(source, 48, tmp_path) == 1


def test_another_number_or_size_starts_over(source: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    for count, size in ((11, 48), (19, 48), (19, 40)):
        assert prepare(replace(source, records=source.records[:count]), size, folder) == count
        assert len(open_prepared(tmp_path, "train", None).records) == count


def test_damaged_pixels_are_noticed_and_repaired(source: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    prepare(source, 48, folder)
    images = np.load(folder / "images.npy", mmap_mode="r+")
    images[7, 20, 20, 1] ^= 1
    images.flush()
    with pytest.raises(DataError, match=r"1 prepared samples are damaged, .*7\.png first"):
        open_prepared(tmp_path, "train", None)
    assert prepare(source, 48, folder) == 1
    assert len(open_prepared(tmp_path, "train", 9).records) == 9


@pytest.mark.parametrize("name", ["images.npy", MANIFEST])
def test_a_file_cut_short_is_noticed_and_repaired(source: Dataset, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "train"
    prepare(source, 48, folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"train cannot be read \(.*\): prepare again"):
        open_prepared(tmp_path, "train", None)
    prepare(source, 48, folder)
    assert len(open_prepared(tmp_path, "train", None).records) == 19


def test_an_empty_array_is_prepared_again(source: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    prepare(source, 48, folder)
    (folder / "images.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"train cannot be read \(.*\): prepare again"):
        open_prepared(tmp_path, "train", None)
    assert prepare(source, 48, folder) == 19


def test_a_folder_is_not_finished_while_other_samples_are_prepared(
    source: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "train"
    prepare(source, 48, folder)
    monkeypatch.setattr("data_pipeline.prepare.write_manifest", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(replace(source, records=source.records[:4]), 48, folder)
    with pytest.raises(DataError, match=r"holds no finished prepared data: run .* --split train "):
        open_prepared(tmp_path, "train", None)


def test_prepared_data_can_be_used_from_any_folder(
    source: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.records[0].image.parent)
    named = replace(
        source,
        split_seed=3,
        records=tuple(
            replace(record, image=Path(record.image.name), mask=Path(record.mask.name)) for record in source.records
        ),
    )
    prepare(named, 32, tmp_path / "train")
    monkeypatch.chdir(tmp_path)
    found = open_prepared(tmp_path, "train", None)
    assert found.records[0].mask.is_file() and found.split_seed == 3


def test_lines_of_the_journal_that_are_no_samples_cost_nothing(source: Dataset, tmp_path: Path) -> None:
    prepare(source, 48, tmp_path)
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write('7\n{"index": 3}\nnull\n[]\n')
    assert prepare(source, 48, tmp_path) == 0


def test_half_a_line_in_the_journal_costs_its_sample_only(source: Dataset, tmp_path: Path) -> None:
    prepare(source, 48, tmp_path)
    journal = tmp_path / JOURNAL
    journal.write_text(journal.read_text()[:-30])
    assert prepare(source, 48, tmp_path) == 1
    # The new line follows the half one without a break, so it is lost as well.
    assert prepare(source, 48, tmp_path) == 1
    assert prepare(source, 48, tmp_path) == 0


def test_another_size_or_deeper_images_are_refused(source: Dataset, spec: Preprocessing, tmp_path: Path) -> None:
    prepare(source, 32, tmp_path / "train")
    prepared = open_prepared(tmp_path, "train", None)
    with pytest.raises(DataError, match="was prepared for 32 px, the network takes 48 px"):
        TrainingLoader(prepared, spec, batch_size=2, augment=True, shuffle=True, seed=0)
    deep = source.records[0].image
    Image.fromarray(picture(61, 97)[..., 0].astype(np.uint16) * 257).save(deep)
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        prepare(source, 48, tmp_path / "deep")


def test_the_command(source: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    for name, attribute in (("images", "image"), ("masks", "mask")):
        (folder / name).mkdir(parents=True)
        for number, record in enumerate(source.records):
            (folder / name / f"{number}.png").write_bytes(getattr(record, attribute).read_bytes())
    (folder / "labels.csv").write_text("image,odd\n" + "".join(f"{n},{n % 2}\n" for n in range(19)))
    output = tmp_path / "out"
    assert main(["--data", f"folder:{folder}", "--size", "40", "--output", str(output)]) == 0
    assert [len(open_prepared(output, split, None).records) for split in ("train", "validation")] == [15, 2]
    assert main(["--data", "folder:/nowhere", "--size", "40", "--output", str(output)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as misuse:
        main(["--data", f"folder:{folder}", "--size", "0", "--output", str(output)])
    assert misuse.value.code == 2
    for wrong in (["--size", "5000"], ["--threads", "9999"]):
        with pytest.raises(SystemExit, match="2"):
            main(["--data", f"folder:{folder}", "--size", "40", "--output", str(output), *wrong])
        assert "must be at most" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"labels": ["odd", "odd"]}, "labels must be different names, got 'odd repeated'"),
        ({"seg_classes": ["background", ""]}, "each of seg_classes must be one line of text, got ''"),
        ({"more": 1}, "manifest.json must be an object of size, name, "),
        ({"records": 7}, "records must be a list, got 7"),
        ({"records": []}, "the number of records must be that of images.npy, 19, got 0"),
        ({"records": [7]}, "each record must be a JSON object, got 7"),
        ({"records": [{}]}, "each record must be an object with image, mask, "),
        ({"grey": "no"}, "grey must be true or false, got 'no'"),
        ({"split_seed": "0"}, "split_seed must be a whole number or null, got '0'"),
    ],
)
def test_names_and_keys_of_the_manifest_are_checked(
    source: Dataset, tmp_path: Path, change: dict[str, object], part: str
) -> None:
    prepare(source, 32, tmp_path / "train")
    manifest = tmp_path / "train" / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | change))
    assert_refused(lambda: open_prepared(tmp_path, "train", None), part)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"labels": [2]}, "of 0 and 1, got (2,)"),
        ({"labels": [1, 0, 1, 0]}, "of 0 and 1, got"),
        ({"labels": [True]}, "of 0 and 1, got"),
        ({"labels": "1"}, "of 0 and 1, got"),
        ({"image": None}, "image must be a text, got None"),
        ({"volume": "x"}, "volume must be"),
        ({"volume": {"name": "x", "slice_mm3": "1"}}, "slice_mm3 must be a number from 0"),
        ({"smallest": 2}, "smallest must be a number from 0 to 1 or null"),
    ],
)
def test_a_row_that_is_no_record_is_refused(
    source: Dataset, tmp_path: Path, change: dict[str, object], part: str
) -> None:
    prepare(source, 32, tmp_path / "train")
    manifest = tmp_path / "train" / MANIFEST
    fields = json.loads(manifest.read_text())
    fields["records"][1] |= change
    manifest.write_text(json.dumps(fields))
    assert_refused(lambda: open_prepared(tmp_path, "train", None), part)


@pytest.mark.parametrize("array", [np.zeros((), np.uint8), np.zeros(8, np.uint8), np.zeros((8, 32, 32, 3), np.float32)])
def test_arrays_of_something_else_are_refused(source: Dataset, tmp_path: Path, array: NDArray[Any]) -> None:
    prepare(source, 32, tmp_path / "train")
    np.save(tmp_path / "train" / "images.npy", array)
    assert_refused(lambda: open_prepared(tmp_path, "train", None), "images.npy must be four dimensions of uint8")
