"""Test that `retouch:DIR` reads MetaImage volumes as SimpleITK writes them, slice by slice."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from data_pipeline import DataError, Dataset, open_source, scan_samples
from data_pipeline.prepare import prepare
from data_pipeline.sources.retouch import read_volume
from tests.helpers.challenges import VENDORS, fluids, write_retouch, write_volume
from tests.helpers.samples import assert_refused

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_retouch(tmp_path_factory.mktemp("retouch"))


def opened(folder: Path, split: str = "train", cache: Path | None = None, samples: int | None = None) -> Dataset:
    cache = cache or folder / "cache"
    return open_source(f"retouch:{folder}", split, samples=samples, cache=cache)  # type: ignore[arg-type]


def volumes(data: Dataset) -> Counter[str]:
    return Counter(record.volume.name for record in data.records if record.volume)


def test_every_slice_is_what_the_volume_holds(folder: Path) -> None:
    seen = 0
    for split in SPLITS:
        data = opened(folder, split)
        assert (
            data.grey
            and data.seg_classes == ("background", "IRF", "SRF", "PED")
            and data.labels == ("IRF", "SRF", "PED")
        )
        assert not scan_samples(data, cache=folder / "cache")
        for record in data.records:
            assert record.volume
            vendor, name = record.volume.name.split("/")
            shape, kind, _ = VENDORS[vendor]
            index = int(record.image.stem.removeprefix("image_"))
            place = folder / f"RETOUCH-TrainingSet-{vendor}" / name
            image, mask = np.asarray(Image.open(record.image)), np.asarray(Image.open(record.mask))
            assert image.dtype == kind
            assert np.array_equal(
                image, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(place / "oct.mhd")))[index]
            )
            target = fluids(shape, int(name[-3:]))[index]
            assert np.array_equal(mask, target)
            assert record.labels == tuple(int((target == value).any()) for value in (1, 2, 3))
            assert record.volume.slice_mm3 == pytest.approx(shape[1] * shape[2] * 0.012 * 0.004 * 0.12)
            seen += 1
    assert seen == 10 * sum(shape[0] for shape, *_ in VENDORS.values())


def test_volumes_are_split_whole_and_for_each_vendor(folder: Path) -> None:
    splits = {split: volumes(opened(folder, split)) for split in SPLITS}
    assert sum(len(names) for names in splits.values()) == len(set().union(*splits.values())) == 30
    for split, count in zip(SPLITS, (8, 1, 1), strict=True):
        assert Counter(name.split("/")[0] for name in splits[split]) == dict.fromkeys(VENDORS, count)
        assert all(slices == VENDORS[name.split("/")[0]][0][0] for name, slices in splits[split].items())
    cache = folder / "cache"
    assert volumes(open_source(f"retouch:{folder}", "train", seed=1, cache=cache)) != splits["train"]


def test_a_vendor_alone_is_split_as_among_the_others(folder: Path) -> None:
    alone = volumes(opened(folder / "RETOUCH-TrainingSet-Topcon", "test", folder / "cache"))
    assert alone == {name: n for name, n in volumes(opened(folder, "test")).items() if name.startswith("Topcon")}
    names = opened(folder / "RETOUCH-TrainingSet-Topcon", "test", folder / "cache").divided
    assert names.items() < opened(folder, "test").divided.items()


def test_fewer_samples_are_spread_over_the_volumes(folder: Path) -> None:
    data = opened(folder, samples=32)
    assert len(data.records) == 32 and set(volumes(data)) == set(volumes(opened(folder)))


def test_volumes_are_converted_once_and_again_when_they_change(tmp_path: Path) -> None:
    write_retouch(tmp_path, 4)
    first = opened(tmp_path).records[0]
    written = first.image.stat().st_mtime_ns
    assert opened(tmp_path).records[0] == first and first.image.stat().st_mtime_ns == written
    assert first.volume
    vendor, name = first.volume.name.split("/")
    write_volume(
        tmp_path / f"RETOUCH-TrainingSet-{vendor}" / name / "oct.mhd", np.full(VENDORS[vendor][0], 9, np.uint8)
    )
    assert (np.asarray(Image.open(opened(tmp_path).records[0].image)) == 9).all()


def test_all_unusable_volumes_are_listed_at_once(tmp_path: Path) -> None:
    cirrus = write_retouch(tmp_path, 6) / "RETOUCH-TrainingSet-Cirrus"
    shape = VENDORS["Cirrus"][0]
    write_volume(cirrus / "TRAIN001" / "reference.mhd", np.zeros((3, 61, 33), np.uint8))
    write_volume(cirrus / "TRAIN002" / "reference.mhd", np.full(shape, 4, np.uint8))
    write_volume(cirrus / "TRAIN003" / "oct.mhd", np.zeros(shape, np.float32))
    (cirrus / "TRAIN004" / "reference.mhd").unlink()
    raw = cirrus / "TRAIN005" / "oct.raw"
    raw.write_bytes(raw.read_bytes()[:100])
    assert_refused(
        lambda: opened(tmp_path),
        "1 volumes whose reference has another shape: Cirrus/TRAIN001",
        "1 volumes whose reference holds other values than 0 to 3: Cirrus/TRAIN002",
        "1 volumes that are not three-dimensional of 8 or 16 bits without sign: Cirrus/TRAIN003",
        "2 volumes whose oct.mhd or reference.mhd is missing or damaged: Cirrus/TRAIN004, Cirrus/TRAIN005",
    )


def test_a_reference_that_is_mirrored_or_a_scan_without_spacing_is_refused(tmp_path: Path) -> None:
    cirrus = write_retouch(tmp_path, 4) / "RETOUCH-TrainingSet-Cirrus"
    mirrored, bare = cirrus / "TRAIN001" / "reference.mhd", cirrus / "TRAIN002" / "oct.mhd"
    image = SimpleITK.ReadImage(str(mirrored))
    image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(mirrored))
    lines = bare.read_text().splitlines(keepends=True)
    bare.write_text("".join(line for line in lines if not line.startswith("ElementSpacing")))
    assert_refused(
        lambda: opened(tmp_path),
        "1 volumes whose reference is turned or mirrored against the scan: Cirrus/TRAIN001",
        "1 volumes whose oct.mhd does not state its spacing: Cirrus/TRAIN002",
    )


def test_a_spacing_in_another_unit_is_converted_or_refused(tmp_path: Path) -> None:
    cirrus = write_retouch(tmp_path, 4) / "RETOUCH-TrainingSet-Cirrus"
    scans = [cirrus / f"TRAIN{number:03d}" / "oct.mhd" for number in (1, 2, 3)]
    spacings = [read_volume(scan.parent).slice_mm3 for scan in scans]
    for scan, unit, factor in zip(scans, ("um", "cm", "pixel"), (1e3, 0.1, 1), strict=True):
        image = SimpleITK.ReadImage(str(scan))
        image.SetSpacing([factor * step for step in image.GetSpacing()])
        SimpleITK.WriteImage(image, str(scan))
        scan.write_text(scan.read_text().replace("ElementType", f"DistanceUnits = {unit}\nElementType"))
    assert [read_volume(scan.parent).slice_mm3 for scan in scans[:2]] == pytest.approx(spacings[:2])
    assert_refused(
        lambda: opened(tmp_path),
        "1 volumes whose oct.mhd states its spacing in a unit that is not known ('pixel'): Cirrus/TRAIN003",
    )


@pytest.mark.parametrize("named", ["LIST\n{}", "s%d.raw 0 3 1"])
def test_pixels_in_a_file_for_each_slice_are_read_or_the_missing_one_named(named: str, tmp_path: Path) -> None:
    place = write_retouch(tmp_path, 4) / "RETOUCH-TrainingSet-Cirrus" / "TRAIN001"
    before = read_volume(place)
    for index, plane in enumerate(before.pixels):
        (place / f"s{index}.raw").write_bytes(plane.tobytes())
    (place / "oct.raw").unlink()
    names = "\n".join(f"s{index}.raw" for index in range(4))
    header = (place / "oct.mhd").read_text()
    (place / "oct.mhd").write_text(header.replace("oct.raw", named.format(names)))
    np.testing.assert_array_equal(read_volume(place).pixels, before.pixels)
    (place / "s2.raw").unlink()
    assert_refused(
        lambda: opened(tmp_path),
        "1 volumes without the files of pixels that their oct.mhd names: "
        "the volume's file of pixels is missing ('s2.raw'): Cirrus/TRAIN001",
    )


def test_pixels_in_another_folder_are_converted_again_when_they_change(tmp_path: Path) -> None:
    cirrus = write_retouch(tmp_path, 4) / "RETOUCH-TrainingSet-Cirrus"
    first = next(record for record in opened(tmp_path).records if record.volume and "Cirrus" in record.volume.name)
    assert first.volume
    place = cirrus / first.volume.name.split("/")[1]
    outside = tmp_path / "pixels.raw"
    (place / "oct.raw").rename(outside)
    header = (place / "oct.mhd").read_text()
    (place / "oct.mhd").write_text(header.replace("oct.raw", "../../pixels.raw"))
    for value in (7, 9):
        outside.write_bytes(bytes([value]) * outside.stat().st_size)
        records = opened(tmp_path).records
        same = next(record for record in records if record.volume and record.volume.name == first.volume.name)
        assert (np.asarray(Image.open(same.image)) == value).all()


def test_a_folder_without_volumes_or_with_too_few_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no volumes: expected a folder with RETOUCH-TrainingSet-Cirrus"):
        opened(tmp_path)
    with pytest.raises(DataError, match="the test split is empty: 3 volumes are too few"):
        opened(write_retouch(tmp_path, 1), "test")


def test_a_disk_that_fills_while_converting_leaves_no_half_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, save, written = write_retouch(tmp_path, 4), Image.Image.save, []

    def save_until_full(image: Image.Image, file: Path, **options: Any) -> None:
        written.append(file)
        if len(written) > 5:
            raise OSError(28, "No space left on device")
        save(image, file, **options)

    with monkeypatch.context() as full:
        full.setattr(Image.Image, "save", save_until_full)
        with pytest.raises(OSError, match="No space left"):
            opened(folder)
    assert not list((folder / "cache" / "volumes").iterdir())
    assert sum(volumes(opened(folder)).values()) > 0


def test_prepared_slices_know_their_volume(folder: Path, tmp_path: Path) -> None:
    data = opened(folder / "RETOUCH-TrainingSet-Topcon", "test", folder / "cache")
    prepare(data, 32, tmp_path / "test", threads=1)
    kept = open_source(f"prepared:{tmp_path}", "test")
    assert [record.volume for record in kept.records] == [record.volume for record in data.records]
