"""Test that volumes whose files are cut, damaged or missing are refused, where ITK reads them as something."""

import gzip
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from data_pipeline.files import drop_unfinished
from data_pipeline.image_header import ImageError
from data_pipeline.volume_file import Volume, open_volume, write_mask

VALUES = np.random.default_rng(0).integers(0, 256, (4, 30, 40), dtype=np.uint8)
SPACING = (0.01, 0.004, 0.1)
PIXDIM = 76  # where a NIfTI file holds its spacing, and the number of axes before it
NAMES = ("a.nii", "a.nii.gz", "a.mha", "a.mhd", "a.nrrd", "a.nhdr")


def write(path: Path, values: NDArray[np.generic] = VALUES, *, compressed: bool = False) -> Path:
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing(SPACING)
    SimpleITK.WriteImage(image, str(path), compressed)
    return path


def pixels_of(volume: Volume) -> NDArray[np.generic]:
    pixels: NDArray[np.generic] = SimpleITK.GetArrayFromImage(volume.image)
    return pixels


def change(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    """Change the bytes of a file, or those in a compressed one."""
    data = path.read_bytes()
    path.write_bytes(gzip.compress(edit(gzip.decompress(data))) if path.suffix == ".gz" else edit(data))
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_whole_volumes_are_read(name: str, compressed: bool, tmp_path: Path) -> None:
    volume = open_volume(write(tmp_path / name, compressed=compressed))
    np.testing.assert_array_equal(pixels_of(volume), VALUES)
    assert volume.spacing == pytest.approx((0.004, 0.01, 0.1), rel=1e-6)


@pytest.mark.parametrize("left", [0.0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("name", NAMES)
def test_cut_files_are_refused(name: str, left: float, tmp_path: Path) -> None:
    write(tmp_path / name)
    # The pixels, where they have a file of their own.
    file = max(tmp_path.iterdir(), key=lambda one: one.stat().st_size)
    file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    with pytest.raises(ImageError):
        open_volume(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nii.gz", "a.nrrd"])
def test_damaged_compressed_pixels_are_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, compressed=True)
    file = max(tmp_path.iterdir(), key=lambda one: one.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) * 3 // 4] ^= 0x55
    file.write_bytes(data)
    with pytest.raises(ImageError):
        open_volume(tmp_path / name)


@pytest.mark.parametrize(
    ("found", "instead"),
    [
        (rb"CompressedDataSize = \d+", b"CompressedDataSize = 1000"),
        (rb"DimSize = 40 30 4", b"DimSize = 40 30 6"),
        (rb"ElementType = MET_UCHAR", b"ElementType = MET_USHORT"),
    ],
)
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_headers_that_ask_for_other_pixels_than_are_packed_are_refused(
    name: str, found: bytes, instead: bytes, tmp_path: Path
) -> None:
    header = write(tmp_path / name, compressed=True)
    change(header, lambda data: re.sub(found, instead, data, count=1))
    with pytest.raises(ImageError, match="the compressed pixels of the volume are not whole"):
        open_volume(header)


@pytest.mark.parametrize("stated", [b"", b"CompressedDataSize = 0\n"])
def test_packed_pixels_of_no_stated_size_are_read_from_a_file_of_their_own_alone(stated: bytes, tmp_path: Path) -> None:
    own, behind = (write(tmp_path / name, compressed=True) for name in ("a.mhd", "b.mha"))
    for header in (own, behind):
        change(header, lambda data: re.sub(rb"CompressedDataSize = \d+\n", stated, data, count=1))
    np.testing.assert_array_equal(pixels_of(open_volume(own)), VALUES)
    with pytest.raises(ImageError, match="the volume's header states no CompressedDataSize"):
        open_volume(behind)


@pytest.mark.parametrize(
    ("field", "before", "behind", "message"),
    [
        ("", b"", b"", ""),
        ("HeaderSize = 512\n", bytes(512), b"", ""),
        ("HeaderSize = -1\n", bytes(512), b"", ""),
        ("", bytes(512), b"", "a file of pixels has 5312 bytes where the volume's header states 4800"),
        ("", b"", VALUES[0].tobytes(), "a file of pixels has 6000 bytes where the volume's header states 4800"),
        ("HeaderSize = 500\n", bytes(512), b"", "has 5312 bytes where the volume's header states 5300"),
    ],
)
def test_pixels_that_are_not_packed_are_as_many_as_the_header_states(
    field: str, before: bytes, behind: bytes, message: str, tmp_path: Path
) -> None:
    header = write(tmp_path / "a.mhd")
    header.write_text(header.read_text().replace("ElementType", f"{field}ElementType"))
    (tmp_path / "a.raw").write_bytes(before + VALUES.tobytes() + behind)
    if message:
        with pytest.raises(ImageError, match=message):
            open_volume(header)
    else:
        np.testing.assert_array_equal(pixels_of(open_volume(header)), VALUES)


def test_pixels_of_16_bits_are_not_read_as_twice_as_many_of_8(tmp_path: Path) -> None:
    for name in ("a.mhd", "a.mha"):
        header = write(tmp_path / name, VALUES.astype(np.uint16))
        change(header, lambda data: data.replace(b"MET_USHORT", b"MET_UCHAR"))
        with pytest.raises(ImageError, match=r"a file of pixels has \d+ bytes where the volume's header states"):
            open_volume(header)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_values_that_are_not_finite_are_refused(
    name: str, dtype: type[np.float32 | np.float64], value: float, tmp_path: Path
) -> None:
    values = VALUES.astype(dtype)
    values[2, 5, 7] = value
    with pytest.raises(ImageError, match="the volume holds 1 NaN or infinities"):
        open_volume(write(tmp_path / name, values))


@pytest.mark.parametrize("step", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_distance_that_is_none_is_not_taken_for_one(name: str, step: float, tmp_path: Path) -> None:
    file = write(tmp_path / name)
    change(file, lambda data: data[: PIXDIM + 4] + struct.pack("<f", step) + data[PIXDIM + 8 :])
    volume = open_volume(file)
    assert volume.spacing is None
    assert volume.notes == ["no mm³: the volume does not state its spacing in all directions"]


@pytest.mark.parametrize(
    "named",
    [
        "LIST\ns0.raw\ns9.raw\ns2.raw\ns3.raw",
        "s%d.raw 0 4 1",
        "LIST\ns0.raw\npipe\ns2.raw\ns3.raw",
        "pipe",
        ".",
        "x\0y",
    ],
)
@pytest.mark.parametrize("ending", [".mhd", ".mha"])
def test_files_of_pixels_that_are_missing_are_named(ending: str, named: str, tmp_path: Path) -> None:
    header = slices_in_files(tmp_path, ending, named)
    with pytest.raises(ImageError, match="the volume's file of pixels is missing"):
        open_volume(header)


@pytest.mark.parametrize("named", ["LIST\ns0.raw\ns1.raw\ns2.raw\ns3.raw", "s%d.raw 0 3 1"])
def test_files_of_pixels_that_are_there_are_read(named: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(pixels_of(open_volume(slices_in_files(tmp_path, ".mhd", named))), VALUES)


@pytest.mark.parametrize("named", ["s%999999999d.raw 0 3 1", "s%s%n.raw 0 3 1", "s%d.raw", "s%d.raw 0 3 0"])
def test_patterns_that_are_none_are_refused(named: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="in a way that is not read"):
        open_volume(slices_in_files(tmp_path, ".mhd", named))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("LIST\ns0.raw\ns1.raw\ns2.raw", "4 slices in 3 files of pixels"),
        ("LIST\ns0.raw\ns1.raw\ns2.raw\ns3.raw\ns3.raw", "4 slices in 5 files of pixels"),
        ("LIST 3\ns0.raw\ns1.raw\ns2.raw\ns3.raw", "4 slices in 4 files of pixels"),
        ("s%d.raw 0 2 1", "4 slices in 3 files of pixels"),
        (
            "LIST\ns0.raw\ns1.raw\ns2.raw\nlong.raw",
            "a file of pixels has 1201 bytes where the volume's header states 1200",
        ),
        ("LIST\ns0.raw\ns1.raw\ns2.raw\ncut.raw", "a file of pixels has 9 bytes where the volume's header states 1200"),
    ],
)
def test_files_of_pixels_that_are_too_few_or_cut_are_refused(named: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "cut.raw").write_bytes(b"cut pixel")
    (tmp_path / "long.raw").write_bytes(bytes(1201))
    with pytest.raises(ImageError, match=message):
        open_volume(slices_in_files(tmp_path, ".mhd", named))


@pytest.mark.parametrize("number", ["nan", "inf", "none"])
@pytest.mark.parametrize("ending", [".nrrd", ".nhdr"])
def test_a_distance_of_nrrd_that_is_no_number_is_not_taken_for_one(ending: str, number: str, tmp_path: Path) -> None:
    for name, instead in (("a", b"spacings: %s 0.2 0.3"), ("b", b"space directions: (%s,0,0) (0,0.2,0) (0,0,0.3)")):
        file = write(tmp_path / f"{name}{ending}")
        stated = instead % number.encode()
        change(file, lambda data, stated=stated: re.sub(rb"space directions: .*", stated, data, count=1))  # type: ignore[misc]
        if name == "a":
            change(file, lambda data: re.sub(rb"space( origin)?: .*\n", b"", data))
        try:
            assert open_volume(file).spacing is None
        except ImageError as error:
            assert "cannot be read" in str(error)


def with_unit(folder: Path, ending: str, unit: str, scale: float) -> Path:
    """Write a volume whose header states its spacing, millimetres times `scale`, in a unit."""
    file = folder / f"{len(list(folder.iterdir()))}{ending}"
    image = SimpleITK.GetImageFromArray(VALUES)
    image.SetSpacing([scale * step for step in SPACING])
    SimpleITK.WriteImage(image, str(file))
    if ending == ".nrrd":
        units = " ".join([f'"{unit}"'] * 3)
        return change(file, lambda data: data.replace(b"space origin", f"space units: {units}\nspace origin".encode()))
    return change(file, lambda data: data.replace(b"ElementType", f"DistanceUnits = {unit}\nElementType".encode()))


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize(
    ("unit", "scale"),
    [("um", 1e3), ("microns", 1e3), ("µm", 1e3), ("mm", 1), ("cm", 0.1), ("CM", 0.1), ("m", 1e-3), ("?", 1), ("", 1)],
)
def test_spacings_in_other_units_are_converted(unit: str, scale: float, ending: str, tmp_path: Path) -> None:
    volume = open_volume(with_unit(tmp_path, ending, unit, scale))
    assert volume.spacing == pytest.approx((0.004, 0.01, 0.1), rel=1e-6)
    assert not volume.notes


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("unit", ["pixel", "inch", "furlong"])
def test_spacings_in_units_that_are_not_known_give_no_volume(unit: str, ending: str, tmp_path: Path) -> None:
    volume = open_volume(with_unit(tmp_path, ending, unit, 1))
    assert volume.spacing is None
    assert volume.notes == [f"no mm³: the volume states its spacing in a unit that is not known ({unit!r})"]


def test_spacings_of_axes_in_several_units_give_no_volume(tmp_path: Path) -> None:
    file = with_unit(tmp_path, ".nrrd", "um", 1)
    change(file, lambda data: data.replace(b'"um" "um" "um"', b'"um" "um" "mm"'))
    assert open_volume(file).spacing is None
    # The fields of a NRRD volume without directions.
    change(file, lambda data: re.sub(rb"space( origin| directions)?: .*\n", b"", data))
    change(file, lambda data: data.replace(b"space units", b"spacings: 10 4 100\nunits").replace(b'"mm"', b'"um"'))
    assert open_volume(file).spacing == pytest.approx((0.004, 0.01, 0.1))


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
import SimpleITK
from data_pipeline.volume_file import open_volume, write_mask

volume, write = open_volume(Path(sys.argv[1])), SimpleITK.WriteImage

def write_and_die(*arguments, **options):
    write(*arguments, **options)
    os.kill(os.getpid(), 9)

SimpleITK.WriteImage = write_and_die
write_mask(volume, np.ones((4, 30, 40), np.uint8), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("ending", [".mha", ".nii.gz", ".nii", ".nrrd"])
def test_a_mask_that_was_being_written_is_removed_by_the_next_run(ending: str, tmp_path: Path) -> None:
    source, output = write(tmp_path / f"a{ending}"), tmp_path / "out"
    output.mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(source), str(output / f"a.mask{ending}")], check=False)
    assert killed.returncode == -9
    (left,) = output.iterdir()
    assert left.stat().st_size
    drop_unfinished(output)
    assert not list(output.iterdir())
    mask = output / f"a.mask{ending}"
    write_mask(open_volume(source), VALUES, mask)
    assert list(output.iterdir()) == [mask]
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(mask))), VALUES)
    (tmp_path / "plain").touch()
    assert mask.stat().st_mode == (tmp_path / "plain").stat().st_mode


def slices_in_files(folder: Path, ending: str, named: str) -> Path:
    """Write a header that names its files of pixels, and a file for each slice beside a named pipe."""
    for index, plane in enumerate(VALUES):
        (folder / f"s{index}.raw").write_bytes(plane.tobytes())
    os.mkfifo(folder / "pipe")
    header = write(folder / "b.mhd")
    text = header.read_text().replace("ElementDataFile = b.raw", f"ElementDataFile = {named}")
    changed = folder / f"a{ending}"
    changed.write_text(text)
    return changed
