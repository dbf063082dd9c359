"""Test which files are read, that each is read right, and that all others are refused by name, everywhere alike."""

import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from data_pipeline import Dataset, ImageError, Preprocessing, Preprocessor, Record, TrainingLoader, scan_samples
from data_pipeline.graph.reference import reference_resize
from data_pipeline.image_file import decodable
from data_pipeline.image_header import UNDECODABLE, read_header
from data_pipeline.orientation import TRANSPOSES
from data_pipeline.overlay import open_upright
from tests.helpers.kinds import JPEG, KINDS, PICTURE, PNG
from tests.helpers.wild import DICOM, EIGHT, OTHERS, REFUSED_TIFFS, TIFFS, TURNED, tiff, with_chunks

SPEC = Preprocessing(image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
LEVELS = Preprocessing(image_size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), white_level=40000)
README = Path(__file__).parents[2] / "data_pipeline" / "README.md"


@pytest.fixture(scope="module")
def serve() -> Preprocessor:
    return Preprocessor(SPEC)


def one_record(data: bytes, folder: Path) -> Dataset:
    """Write a file with an empty mask of its upright size."""
    (folder / "image").write_bytes(data)
    try:
        size = read_header(data).upright_size
    except ImageError:
        size = (20, 10)
    Image.new("L", size).save(folder / "mask.png")
    record = Record(image=folder / "image", mask=folder / "mask.png", labels=(1,))
    return Dataset(name="one", records=(record,), seg_classes=("background", "blob"), labels=("label",))


@pytest.mark.parametrize("name", TURNED)
def test_an_orientation_in_doubt_is_decided_once_for_all(name: str, serve: Preprocessor, tmp_path: Path) -> None:
    data, orientation = TURNED[name]
    stored = PICTURE if name.startswith("png") else open_upright(JPEG)
    upright = stored.transpose(TRANSPOSES[orientation]) if orientation > 1 else stored
    expected = reference_resize(np.asarray(upright, np.float64) / 255, SPEC.image_size).transpose(2, 0, 1)
    served = [serve(data) for _ in range(3)]
    # DALI gave another image at each call.
    for result in served:
        np.testing.assert_allclose(result, expected, atol=2 / 255)
    dataset = one_record(data, tmp_path)
    assert not scan_samples(dataset, cache=tmp_path)
    (batch,) = TrainingLoader(dataset, SPEC, batch_size=1, augment=False, shuffle=False, seed=0)
    np.testing.assert_array_equal(batch.image[0].numpy(), served[0])
    np.testing.assert_array_equal(np.asarray(open_upright(data)), np.asarray(upright))


def test_ordinary_files_pass_as_they_are() -> None:
    assert decodable(JPEG) is JPEG
    assert decodable(PNG) is PNG


@pytest.mark.parametrize("name", TIFFS)
def test_tiff_files_are_read_right(name: str, serve: Preprocessor, tmp_path: Path) -> None:
    make, expected = TIFFS[name]
    data = make()
    served = serve(data)
    resized = reference_resize(expected, SPEC.image_size).transpose(2, 0, 1)
    # Of 16 bits, more than 8 are kept, also by JPEG 2000, which loses none here.
    tolerance = 1e-4 if name.startswith(("16", "10", "12", "14")) else 1 / 255
    np.testing.assert_allclose(served, resized, atol=tolerance)
    dataset = one_record(data, tmp_path)
    assert not scan_samples(dataset, cache=tmp_path)
    (batch,) = TrainingLoader(dataset, SPEC, batch_size=1, augment=False, shuffle=False, seed=0)
    np.testing.assert_array_equal(batch.image[0].numpy(), served)
    assert open_upright(data).size == (expected.shape[1], expected.shape[0])


@pytest.mark.parametrize("name", TIFFS)
def test_the_white_level_belongs_to_files_of_16_bits(name: str, serve: Preprocessor) -> None:
    data = TIFFS[name][0]()
    factor = 65535 / 40000 if name.startswith("16 bits") else 1.0
    # Values are rounded to the white level's steps where a file has its own depth.
    np.testing.assert_allclose(Preprocessor(LEVELS)(data), serve(data) * factor, atol=2e-4)


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_means_nothing_does_not_turn_a_tiff(orientation: int, serve: Preprocessor) -> None:
    upright, stated = (
        tiff(EIGHT, photometric="rgb", extratags=[(274, "H", 1, value, True)]) for value in (1, orientation)
    )
    assert open_upright(stated).size == read_header(stated).upright_size == (EIGHT.shape[1], EIGHT.shape[0])
    np.testing.assert_array_equal(serve(stated), serve(upright))


def broken(kind: bytes, body: bytes) -> bytes:
    """Make a PNG with a chunk whose checksum is wrong."""
    return PNG[:33] + struct.pack(">I", len(body)) + kind + body + bytes(4) + PNG[33:]


@pytest.mark.parametrize(
    "kind", [b"pHYs", b"sRGB", b"cHRM", b"gAMA", b"tRNS", b"acTL", b"iCCP", b"sBIT", b"tIME", b"tEXt"]
)
def test_damaged_chunks_beside_the_pixels_of_a_png_change_nothing(kind: bytes, serve: Preprocessor) -> None:
    for data in (with_chunks((kind, b"")), with_chunks((kind, b"ab")), broken(kind, b"abcd")):
        np.testing.assert_array_equal(serve(data), serve(PNG))
        np.testing.assert_array_equal(np.asarray(open_upright(data)), np.asarray(PICTURE))


@pytest.mark.parametrize("segment", [b"\xff\xee\0\x08Adobe\0", b"\xff\xee\0\x07Adobe", b"\xff\xe0\0\x07JFIF\0"])
def test_segments_of_a_jpeg_that_are_too_short_change_nothing(segment: bytes, serve: Preprocessor) -> None:
    data = JPEG[:2] + segment + JPEG[2:]
    np.testing.assert_array_equal(serve(data), serve(JPEG))
    np.testing.assert_array_equal(np.asarray(open_upright(data)), np.asarray(open_upright(JPEG)))
    inks = KINDS["jpeg-cmyk"]()
    adobe = inks.index(b"\xff\xee")
    assert inks[adobe + 2 : adobe + 4] == b"\0\x0e"
    with pytest.raises(ImageError, match="does not name their colours"):
        serve(inks[:adobe] + segment + inks[adobe + 16 :])


def test_pictures_keep_the_colour_profile_of_a_png() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = with_chunks((b"iCCP", b"name\0\0" + zlib.compress(profile)))
    assert open_upright(data).info["icc_profile"] == profile


def test_what_pillow_does_not_identify_is_refused_in_the_words_of_the_server(serve: Preprocessor) -> None:
    data = PNG[:29] + bytes(4) + PNG[33:]
    for read in (serve, open_upright):
        with pytest.raises((ImageError, OSError), match=f"^{re.escape(UNDECODABLE)}$"):
            read(data)


@pytest.mark.parametrize("name", REFUSED_TIFFS)
def test_other_tiff_files_are_refused_with_the_reason(name: str, serve: Preprocessor, tmp_path: Path) -> None:
    make, reason = REFUSED_TIFFS[name]
    assert_refused_everywhere(make(), reason, serve, tmp_path)


# DICOM, which only servers refuse, has tests of its own.
@pytest.mark.parametrize("name", [name for name in OTHERS if name != DICOM])
def test_other_formats_are_refused_by_name(name: str, serve: Preprocessor, tmp_path: Path) -> None:
    assert_refused_everywhere(*OTHERS[name], serve, tmp_path)


def assert_refused_everywhere(data: bytes, reason: str, serve: Preprocessor, folder: Path) -> None:
    """Assert that serving, the scan and pictures refuse a file in the same words of one line."""
    with pytest.raises(ImageError) as served:
        serve(data)
    message = str(served.value)
    assert reason in message and "\n" not in message
    (bad,) = scan_samples(one_record(data, folder), cache=folder)
    assert bad.reason == f"image: {message}"
    with pytest.raises(OSError, match=re.escape(message)):
        open_upright(data)


MUTATE = """
import sys
from data_pipeline import ImageError, Preprocessing, Preprocessor
from tests.helpers.wild import ORIGINALS, mutated

serve, originals = Preprocessor(Preprocessing(image_size=24)), list(ORIGINALS.values())

def answer(data):
    try:
        return serve(data).tobytes()
    except ImageError as error:
        assert "\\n" not in str(error)
        return str(error)

accepted = 0
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    data = mutated(originals, seed)
    first, second = answer(data), answer(data)
    assert first == second, f"seed {seed} gave two answers"
    accepted += isinstance(first, bytes)
print(accepted)
"""


@pytest.mark.parametrize("count", [120, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_files_neither_crash_nor_change_their_answer(count: int) -> None:
    # In another process, which a crash may end.
    command = [sys.executable, "-c", MUTATE, "0", str(count)]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=README.parents[1], timeout=5 * count)
    assert finished.returncode == 0, finished.stderr[-2000:]
    # Some must be read, or the fuzzing is too harsh to prove anything.
    assert count // 20 < int(finished.stdout) < count


# Rows of the table in the README: what is in a file, and the files that stand for it.
ROWS: dict[str, list[bytes]] = {
    "JPEG of 8 bits: grey, RGB, CMYK, baseline, progressive": [
        KINDS[name]() for name in ("jpeg", "jpeg-grey", "jpeg-cmyk", "jpeg-progressive")
    ],
    "PNG of 1 to 16 bits: grey, RGB, palette": [
        KINDS[name]() for name in ("png", "png-1-bit", "png-palette", "png-16-bit")
    ],
    "PNG or TIFF with alpha, which is dropped": [
        KINDS["png-rgba"](),
        *(make() for name, (make, _) in TIFFS.items() if "alpha" in name),
    ],
    "JPEG, PNG or TIFF turned by EXIF, XMP or ImageMagick's profile, also by several of them": [
        data for data, _ in TURNED.values()
    ],
    "TIFF of 1 to 16 bits: grey (also where white is 0), RGB, palette; strips, tiles, planes, BigTIFF": [
        make() for name, (make, _) in TIFFS.items() if "inside" not in name
    ],
    "TIFF with LZW, deflate, LZMA, Zstandard, PackBits, PNG, JPEG 2000 or LERC inside": [
        make() for name, (make, _) in TIFFS.items() if "inside" in name
    ],
    "TIFF of several pages, the first of which counts": [KINDS["tiff-first-of-two-pages"]()],
    **{f"TIFF: {name}": [make()] for name, (make, _) in REFUSED_TIFFS.items()},
    **{name: [data] for name, (data, _) in OTHERS.items()},
}


def test_the_readme_says_what_happens_to_each_kind(serve: Preprocessor) -> None:
    """Make the table of the README: `python -m pytest` shows the right one where it differs."""
    lines = ["| file | what happens |", "| --- | --- |"]
    for what, files in ROWS.items():
        outcomes = {outcome(serve, data) for data in files}
        assert len(outcomes) == 1, what
        lines.append(f"| {what} | {outcomes.pop()} |")
    table = "\n".join(lines)
    assert table in README.read_text(), table


def outcome(serve: Preprocessor, data: bytes) -> str:
    try:
        serve(data)
    except ImageError as error:
        return f"refused: {error}"
    return "read"
