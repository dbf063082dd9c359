"""Test volumes against the real server, and what is measured in them on balls of known size."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from PIL import Image

from data_pipeline import Preprocessing
from data_pipeline.dicom import Frame, frame_png
from data_pipeline.image_header import ImageError
from data_pipeline.volume_file import is_volume, open_volume, slices_of
from deploy.client import Client
from deploy.client.__main__ import main
from deploy.client.client import Result
from deploy.client.errors import ServerUnavailable
from deploy.client.image import Failure, Wanted
from deploy.client.measure import Cleaning
from deploy.client.picture import Claims
from deploy.client.plan import Task
from deploy.client.transport import Served
from deploy.client.volume import VolumeResult, process_volume
from deploy.client.volume.slices import SliceStore
from deploy.contract import Contract
from deploy.server import Server
from tests.helpers.dicom import make_dicom

CONTRACT = Contract(preprocessing=Preprocessing(image_size=64), seg_classes=("background", "ball"), labels=("a",))
SERVED = Served(CONTRACT, "first")
MISSING = [0]  # slices that are still to be asked for
SPACING = (0.02, 0.005, 0.1)  # across, down, through, as SimpleITK gives it
ENDINGS = (".mha", ".mhd", ".nii.gz", ".nii", ".nrrd")


def save(path: Path, values: NDArray[Any], spacing: tuple[float, ...] = SPACING) -> Path:
    """Write a volume (N, H, W) with a geometry that is not the default one."""
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(spacing)
    image.SetOrigin((1.5, -2.0, 3.0))
    image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    SimpleITK.WriteImage(image, str(path))
    return path


def scan(seed: int = 0, shape: tuple[int, ...] = (4, 40, 60)) -> NDArray[np.uint8]:
    """Make a volume of smooth slices."""
    coarse = np.random.default_rng(seed).integers(0, 256, (shape[0], 5, 7), dtype=np.uint8)
    size = (shape[2], shape[1])
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)) for one in coarse])


@pytest.mark.parametrize("ending", ENDINGS)
def test_masks_have_the_geometry_and_the_format_of_their_volume(ending: str, server: Server, tmp_path: Path) -> None:
    values = scan()
    source = save(tmp_path / f"eye{ending}", values)
    output = tmp_path / "out"
    assert main([str(source), "--url", server.grpc_url, "--output", str(output), "--jobs", "3"]) == 0
    (result,) = json.loads((output / "result.json").read_text())["volumes"]
    assert result["mask"].endswith(".mha" if ending == ".mhd" else ending)
    written, original = (SimpleITK.ReadImage(str(file)) for file in (output / result["mask"], source))
    assert written.GetSpacing() == pytest.approx(original.GetSpacing())
    assert written.GetOrigin() == pytest.approx(original.GetOrigin())
    assert written.GetDirection() == pytest.approx(original.GetDirection())
    mask = SimpleITK.GetArrayFromImage(written)
    with Client(server.grpc_url) as client:
        for index, pixels in enumerate(values):
            alone = client.segment(frame_png(Frame(pixels, 255)), own_size=True)
            assert np.array_equal(mask[index], np.asarray(alone.own_mask))
            for label, probability in alone.class_probabilities.items():
                assert result["slice_classes"][label][index] == pytest.approx(probability)
    for label, values_of_slices in result["slice_classes"].items():
        assert result["classes"][label] == max(values_of_slices)
    for position, name in enumerate(("IRF", "SRF", "PED"), 1):
        assert result["areas"][name]["pixels"] == (mask == position).sum()
        assert result["areas"][name]["mm3"] == pytest.approx((mask == position).sum() * np.prod(SPACING), rel=1e-4)
        with Image.open(output / result["maps"][name]) as picture:
            assert picture.size == (60, 4)
    thickness = np.load(output / result["thickness"])
    np.testing.assert_allclose(thickness[0], (mask == 1).sum(axis=1) * SPACING[1], rtol=1e-5)


def answers(mask: NDArray[np.uint8]) -> Any:
    """Return what stands for a server that finds a given mask (N, H, W)."""

    def ask(frames: Iterable[Frame]) -> Iterator[Result]:
        for found, _ in zip(mask, frames, strict=True):
            yield Result(
                mask=found,
                own_mask=found,
                seg_classes=("background", "ball"),
                class_probabilities={"a": 0.5},
                seg_probabilities=None,
                seconds=0.0,
                request_id="1",
            )

    return ask


def ball(shape: tuple[int, int, int], radius: float, spacing: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Draw a ball in millimetres in the middle of a volume."""
    axes = [(np.arange(count) - (count - 1) / 2) * step for count, step in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return np.asarray(z**2 + y**2 + x**2 < radius**2, np.uint8)


def run_on(mask: NDArray[np.uint8], source: Path, wanted: Wanted, shares: list[float]) -> VolumeResult | Failure:
    """Process a volume of which the server would find `mask`."""
    (source.parent / "out").mkdir(exist_ok=True)
    return process_volume(
        answers(mask), Task(source, "a"), source.parent / "out", wanted, SERVED, Claims(), shares.append
    )


def test_a_ball_is_measured_and_its_thickness_mapped(tmp_path: Path) -> None:
    mask = ball((40, 200, 100), 0.45, (0.03, 0.006, 0.012))
    source = save(tmp_path / "a.mha", np.zeros(mask.shape, np.uint8), (0.012, 0.006, 0.03))
    shares: list[float] = []
    result = run_on(mask, source, Wanted(), shares)
    assert isinstance(result, VolumeResult)
    assert result.areas["ball"]["mm3"] == pytest.approx(4 / 3 * np.pi * 0.45**3, rel=0.02)
    thickness = np.load(tmp_path / "out" / result.thickness)
    assert thickness.max() == pytest.approx(0.9, rel=0.02)
    assert thickness.sum() * 0.03 * 0.012 == pytest.approx(4 / 3 * np.pi * 0.45**3, rel=0.02)
    assert sum(shares) == pytest.approx(1)


def test_cleaning_works_on_each_slice(tmp_path: Path) -> None:
    mask = ball((3, 60, 60), 20, (1, 1, 1))
    mask[:, :3, :3] = 1
    source = save(tmp_path / "a.mha", np.zeros(mask.shape, np.uint8))
    result = run_on(mask, source, Wanted(cleaning=Cleaning(keep_largest=True)), [])
    assert isinstance(result, VolumeResult)
    assert result.areas["ball"]["pixels"] == mask.sum() - 27


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing raw", "file of pixels is missing"),
        ("nan", "3 NaN or infinities"),
        ("cut", "cannot be read"),
        ("flat", "three axes"),
        ("colour", "three axes"),
        ("gone", "No such file"),
        ("text", "cannot be read"),
    ],
)
def test_what_is_no_volume_is_one_line(kind: str, message: str, tmp_path: Path) -> None:
    source = save(tmp_path / "a.mhd", scan())
    if kind == "missing raw":
        (tmp_path / "a.raw").unlink()
    elif kind == "nan":
        values = scan().astype(np.float32)
        values[1, 2, 3:6] = np.nan
        source = save(tmp_path / "a.nrrd", values)
    elif kind == "cut":
        source = save(tmp_path / "a.nrrd", scan())
        source.write_bytes(source.read_bytes()[:-500])
    elif kind == "flat":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(scan()[0]), str(source))
    elif kind == "colour":
        source = tmp_path / "a.mha"
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((2, 4, 5, 3), np.uint8), isVector=True), str(source))
    elif kind == "gone":
        source = tmp_path / "b.nii"
    else:
        source = tmp_path / "a.nii.gz"
        source.write_text("no volume")
    result = run_on(np.zeros((4, 40, 60), np.uint8), source, Wanted(), [])
    assert isinstance(result, Failure)
    assert message in result.reason
    assert len(result.reason.splitlines()) == 1
    assert not list((tmp_path / "out").iterdir())


def test_signed_and_float_values_keep_their_order(tmp_path: Path) -> None:
    values = np.linspace(-1000, 3000, 4 * 40 * 60).reshape(4, 40, 60)
    for dtype in (np.int16, np.float32):
        volume = open_volume(save(tmp_path / "a.nii.gz", values.astype(dtype)))
        pixels = np.array([frame.pixels for frame in slices_of(volume)], np.float64) / 65535
        np.testing.assert_allclose(pixels, (values + 1000) / 4000, atol=1e-3)
        assert "from -1000 to 3000" in volume.notes[0]


@pytest.mark.parametrize("level", [65535, 4095])
def test_volumes_of_16_bits_are_as_bright_as_files_of_16_bits(level: int, tmp_path: Path) -> None:
    """Compare what the server is sent with a PNG of the same values, of which it takes `level` for white."""
    values = np.random.default_rng(0).integers(0, 4096, (2, 40, 60)).astype(np.uint16)
    volume = open_volume(save(tmp_path / "a.nii.gz", values))
    for frame, plane in zip(slices_of(volume), values, strict=True):
        with Image.open(io.BytesIO(frame_png(frame, level))) as picture:
            np.testing.assert_array_equal(np.asarray(picture), plane)


def test_a_spacing_that_nobody_has_stated_gives_no_volume(tmp_path: Path) -> None:
    volume = open_volume(save(tmp_path / "a.nii.gz", scan(), (1.0, 1.0, 1.0)))
    assert volume.spacing is None
    assert "no mm³" in volume.notes[0]
    absurd = save(tmp_path / "b.mha", scan(), (9.0, 9.0, 9.0))
    result = run_on(np.zeros((4, 40, 60), np.uint8), absurd, Wanted(), [])
    assert isinstance(result, VolumeResult)
    assert result.spacing is None
    assert any("not plausible" in note for note in result.notes)


def test_tomography_becomes_a_segmentation_of_all_its_frames(server: Server, tmp_path: Path) -> None:
    values = scan()
    source = make_dicom(tmp_path / "oct.dcm", "oct", values, spacing=(0.004, 0.012), slice_mm=0.12)
    assert is_volume(source)
    output = tmp_path / "out"
    arguments = [str(tmp_path / "oct.dcm"), "--url", server.grpc_url, "--output", str(output), "--dicom"]
    assert main(arguments) == 0
    (result,) = json.loads((output / "result.json").read_text())["volumes"]
    assert result["spacing"] == pytest.approx({"row_mm": 0.004, "column_mm": 0.012, "slice_mm": 0.12})
    seg = highdicom.seg.segread(output / result["dicom"][0])
    with Client(server.grpc_url) as client:
        masks = [client.segment(frame_png(Frame(one, 255)), own_size=True).own_mask for one in values]
    from pydicom import dcmread

    uid = dcmread(source).SOPInstanceUID
    for index in (1, 2, 3):
        read = seg.get_pixels_by_source_frame(
            uid, [1, 2, 3, 4], segment_numbers=[index], assert_missing_frames_are_empty=True
        )
        np.testing.assert_array_equal(read[..., 0] > 0, np.array(masks) == index)
    # A second run with the same wishes has nothing to do, one with others does it again.
    before = (output / result["dicom"][0]).stat().st_mtime_ns
    assert main([*arguments, "--resume"]) == 0
    assert (output / result["dicom"][0]).stat().st_mtime_ns == before
    assert main([*arguments, "--resume", "--deidentify"]) == 0
    assert (output / result["dicom"][0]).stat().st_mtime_ns > before


def test_a_damaged_volume_does_not_stand_in_the_way_of_its_copy(tmp_path: Path) -> None:
    mask = ball((4, 30, 40), 12, (3, 1, 1))
    source = make_dicom(tmp_path / "b.dcm", "oct", np.zeros(mask.shape, np.uint8))
    # Its header is whole, and its pixels are not.
    (tmp_path / "a.dcm").write_bytes(source.read_bytes()[:-2000])
    (tmp_path / "out").mkdir()
    claims, outcomes = Claims(), []
    for name in ("a", "b", "b"):
        task = Task(tmp_path / f"{name}.dcm", name)
        outcomes.append(
            process_volume(answers(mask), task, tmp_path / "out", Wanted(), SERVED, claims, lambda share: None)
        )
    assert isinstance(outcomes[0], Failure) and "damaged" in outcomes[0].reason
    assert isinstance(outcomes[1], VolumeResult) and isinstance(outcomes[2], VolumeResult)


def test_an_interrupted_volume_goes_on_from_its_slices(tmp_path: Path) -> None:
    mask = ball((6, 30, 40), 12, (3, 1, 1))
    source = save(tmp_path / "a.mha", np.zeros(mask.shape, np.uint8))
    asked: list[int] = []

    def ask(frames: Iterable[Frame]) -> Iterator[Result]:
        for number, result in enumerate(answers(mask[6 - MISSING[0] :])(frames)):
            asked.append(number)
            # The first run is interrupted before its fourth slice.
            if MISSING[0] == 6 and number == 3:
                raise ServerUnavailable("gone")
            yield result

    MISSING[0] = 6
    arguments = (Task(source, "a"), tmp_path / "out", Wanted(), SERVED)
    (tmp_path / "out").mkdir()
    with pytest.raises(ServerUnavailable):
        process_volume(ask, *arguments, Claims(), lambda share: None)
    # Another network's slices are not mixed with these.
    (tmp_path / "other").mkdir()
    shutil.copytree(tmp_path / "out" / ".a.slices", tmp_path / "other" / ".a.slices")
    SliceStore(tmp_path / "other", "a", source, Task(source, "a").stamp, Served(CONTRACT, "second"))
    assert [file.name for file in (tmp_path / "other" / ".a.slices").iterdir()] == ["key"]
    # One of those that were written is damaged, and counts as missing.
    (tmp_path / "out" / ".a.slices" / "000002.npz").write_bytes(b"PK")
    MISSING[0] = 4
    asked.clear()
    result = process_volume(ask, *arguments, Claims(), lambda share: None)
    assert isinstance(result, VolumeResult)
    assert len(asked) == 4
    assert result.areas["ball"]["pixels"] == mask.sum()
    assert not (tmp_path / "out" / ".a.slices").exists()


def test_a_disk_that_fills_leaves_no_half_volume(server: Server, tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii", scan(shape=(8, 200, 200)))
    command = [sys.executable, "-m", "deploy.client", str(source), "--url", server.grpc_url]
    limited = ["sh", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$@"', "sh", *command, "--output", str(tmp_path / "out")]
    run = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in run.stderr
    left = {file.name for file in (tmp_path / "out").iterdir()}
    # The slices are what --resume goes on from.
    assert left <= {"result.json", ".a.slices"}


@pytest.mark.parametrize("header", ["a.mhd", "a.nhdr"])
def test_a_volume_is_another_one_where_its_pixels_are(header: str, tmp_path: Path) -> None:
    source = tmp_path / header
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((3, 20, 20), np.uint8)), source)
    task = Task(source, "a")
    before = task.stamp
    assert task.stamp == before
    (pixels,) = [file for file in tmp_path.iterdir() if file != source]
    os.utime(pixels, (0, before["modified"] + 10))
    assert task.stamp != before
    pixels.unlink()
    with pytest.raises(ImageError, match="missing"):
        _ = task.stamp
