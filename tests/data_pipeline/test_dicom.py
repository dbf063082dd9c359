"""Test that DICOM images are read as independent readers show them, or refused in one line."""

import io
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, convert_color_space

from data_pipeline import Preprocessing, Preprocessor, TrainingLoader, open_source
from data_pipeline.dicom import (
    frame_png,
    is_dicom,
    open_dicom,
    picture_file,
    pixel_spacing,
    read_frames,
    volume_spacing,
)
from data_pipeline.dicom.file import quiet
from data_pipeline.image_header import ImageError, read_header
from data_pipeline.scan import scan_samples
from tests.helpers.dicom import PATIENT, make_dicom

SHIPPED = Path(pydicom.__file__).parent / "data"
FILES = sorted(file for file in SHIPPED.rglob("*") if file.is_file() and is_dicom(file.read_bytes()[:132]))
BARE = ("ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "rtstruct.dcm")  # without a preamble
# Images that are refused, by what their message must name.
REFUSED = {
    "JPEG-lossy.dcm": "pylibjpeg-libjpeg",
    "JPGExtended.dcm": "pylibjpeg-libjpeg",
    "JPEG2000-embedded-sequence-delimiter.dcm": "damaged",
    "MR_truncated.dcm": "damaged",
    "badVR.dcm": "radiotherapy",
    "meta_missing_tsyntax.dcm": "how the pixels are stored",
    "nested_priv_SQ.dcm": "Columns",
    "SC_rgb_rle_32bit.dcm": "32 bits",
    "SC_rgb_rle_32bit_2frame.dcm": "32 bits",
    **dict.fromkeys(("liver_1frame.dcm", "liver_expb_1frame.dcm"), "segmentation"),
    **{file.name: "radiotherapy" for file in FILES if file.name.startswith("rtdose")},
}


def shown_by_pydicom(file: Path) -> tuple[NDArray[np.float64], float, float]:
    """Return the frames as pydicom's own functions show them, with what is black and what is white."""
    header = pydicom.dcmread(file)
    values = header.pixel_array
    if header.PhotometricInterpretation == "PALETTE COLOR":
        looked_up = apply_color_lut(values, header)
        return looked_up.astype(np.float64), 0.0, float(np.iinfo(looked_up.dtype).max)
    if header.SamplesPerPixel == 3:
        return values.astype(np.float64), 0.0, 2.0**header.BitsStored - 1
    signed, bits = bool(header.PixelRepresentation), header.BitsStored
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if "WindowWidth" in header or "VOILUTSequence" in header:
        shown = apply_voi_lut(apply_modality_lut(values, header), header)
        slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
        low, high = low * slope + intercept, high * slope + intercept
    else:
        shown = values
    if header.PhotometricInterpretation == "MONOCHROME1":
        low, high = high, low
    return np.asarray(shown, np.float64), low, high


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_that_pydicom_ships_is_read_as_it_shows_it_or_refused(file: Path) -> None:
    try:
        frames = list(read_frames(open_dicom(file)))
    except ImageError as error:
        assert len(str(error).splitlines()) == 1
        assert file.name in REFUSED or "PixelData" not in pydicom.dcmread(file, force=True)
        assert REFUSED.get(file.name, "") in str(error)
        return
    shown, black, white = shown_by_pydicom(file)
    expected = shown if len(frames) > 1 else shown[None]
    assert len(frames) == len(expected)
    for frame, values in zip(frames, expected, strict=True):
        # Exact but for the rounding to whole steps, of which windows need one half.
        shares = np.clip((values - black) / (white - black), 0, 1)
        assert np.abs(frame.pixels - shares * frame.white).max() <= 0.5 + 1e-6
        with Image.open(io.BytesIO(frame_png(frame))) as picture:
            assert picture.size == (frame.pixels.shape[1], frame.pixels.shape[0])


@pytest.mark.parametrize(("bits", "level"), [(12, 65535), (12, 4095), (16, 65535), (9, 65535)])
def test_depth_is_kept_and_the_stored_bits_are_white(bits: int, level: int, tmp_path: Path) -> None:
    values = np.linspace(0, 2**bits - 1, 40 * 30).astype(np.uint16).reshape(30, 40)
    data = make_dicom(tmp_path / "a.dcm", "fundus16", values, bits=bits).read_bytes()
    with Image.open(io.BytesIO(picture_file(data, level))) as picture:
        written = np.asarray(picture, np.float64)
    np.testing.assert_allclose(written / level, values / (2**bits - 1), atol=0.5 / level)


def test_inverted_files_and_windows_per_frame(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    inverted = make_dicom(tmp_path / "a.dcm", "capture", values, PhotometricInterpretation="MONOCHROME1")
    (frame,) = read_frames(open_dicom(inverted))
    np.testing.assert_array_equal(frame.pixels, 255 - values)
    file = pydicom.dcmread(make_dicom(tmp_path / "b.dcm", "oct", np.stack([values, values])))
    for index, width in enumerate((50, 100)):
        window = pydicom.Dataset()
        window.WindowCenter, window.WindowWidth = 100, width
        file.PerFrameFunctionalGroupsSequence[index].FrameVOILUTSequence = [window]
    file.save_as(tmp_path / "b.dcm")
    first, second = read_frames(open_dicom(tmp_path / "b.dcm"))
    # The window's ends: c - 0.5 +- (w - 1) / 2.
    for frame, low, high in ((first, 75, 124), (second, 50, 149)):
        assert frame.pixels[values <= low].max() == 0
        assert frame.pixels[values >= high].min() == 255
        assert 0 < frame.pixels[values == 100] < 255


def test_spacing_is_found_where_it_is_stated(tmp_path: Path) -> None:
    values = np.zeros((2, 8, 8), np.uint8)
    flat = open_dicom(make_dicom(tmp_path / "a.dcm", "fundus", values[0], spacing=(0.01, 0.02)))
    assert pixel_spacing(flat.header) == (0.01, 0.02)
    stacked = open_dicom(make_dicom(tmp_path / "b.dcm", "oct", values, spacing=(0.004, 0.012), slice_mm=0.12))
    assert pixel_spacing(stacked.header) == (0.004, 0.012)
    spacing, why = volume_spacing(stacked.header, 2)
    assert spacing == pytest.approx((0.004, 0.012, 0.12)) and not why
    nowhere = open_dicom(make_dicom(tmp_path / "c.dcm", "capture", values[0]))
    assert pixel_spacing(nowhere.header) is None
    assert volume_spacing(nowhere.header, 1) == (None, "the file does not state the size of its pixels")


def test_a_place_of_the_whole_stack_is_none_of_its_frames(tmp_path: Path) -> None:
    stack: dict[str, Any] = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    values = np.zeros((3, 8, 8), np.uint8)
    file = make_dicom(tmp_path / "a.dcm", "capture_frames", values, spacing=(0.01, 0.02), slice_mm=0.1, **stack)
    assert volume_spacing(open_dicom(file).header, 3) == (pytest.approx((0.01, 0.02, 0.1)), "")  # type: ignore[comparison-overlap]


def place(header: pydicom.Dataset, index: int, **attributes: list[float]) -> None:
    """Give a frame a position, a direction or a size of the pixels of its own."""
    names = {"ImagePositionPatient": "PlanePosition", "PixelSpacing": "PixelMeasures"}
    for keyword, value in attributes.items():
        inner = pydicom.Dataset()
        setattr(inner, keyword, value)
        setattr(
            header.PerFrameFunctionalGroupsSequence[index], names.get(keyword, "PlaneOrientation") + "Sequence", [inner]
        )


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([{"ImagePositionPatient": [0, 0, z]} for z in (0, 0.25, 3, 9)], "not equally far"),
        ([{"ImagePositionPatient": [0, 0, z]} for z in (0, 0.1, 0.05, 0.15)], "not in order"),
        ([{"ImageOrientationPatient": [np.cos(a), 0, np.sin(a), 0, 1, 0]} for a in (0, 0.5, 1, 1.5)], "not parallel"),
        ([{"PixelSpacing": [0.01, 0.01 + step]} for step in (0, 0, 0, 0.01)], "pixels differ in size"),
        ([{"ImagePositionPatient": [0, 2 * z, 0.1 * z]} for z in range(4)], ""),
    ],
)
def test_frames_that_are_no_stack_have_no_volume(places: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    header = pydicom.dcmread(make_dicom(tmp_path / "a.dcm", "oct", np.zeros((4, 8, 8), np.uint8), spacing=(0.01, 0.01)))
    for index, attributes in enumerate(places):
        place(header, index, **attributes)
    found, why = volume_spacing(header, 4)
    assert message in why
    # Along the normal, also where the stack leans.
    assert found == (None if message else pytest.approx((0.01, 0.01, 0.1)))


@pytest.mark.parametrize("bits", [8, 12])
def test_values_that_do_not_begin_at_bit_0_are_moved_there(bits: int, tmp_path: Path) -> None:
    values = np.linspace(0, 2**bits - 1, 12 * 10).astype(np.uint16).reshape(10, 12)
    for high in (bits, 15):
        moved = (values << (high + 1 - bits)).astype(np.uint16)
        file = make_dicom(tmp_path / "a.dcm", "fundus16", moved, bits=bits, HighBit=high)
        (frame,) = read_frames(open_dicom(file))
        np.testing.assert_array_equal(frame.pixels, values)
    with pytest.raises(ImageError, match="cannot end at bit 16 of 16"):
        open_dicom(make_dicom(tmp_path / "b.dcm", "fundus16", values, bits=bits, HighBit=16))


def test_a_palette_of_bytes_in_words_is_as_bright_as_its_bytes(tmp_path: Path) -> None:
    values, table = np.arange(256, dtype=np.uint8).reshape(16, 16), np.arange(256, dtype=np.uint16)[::-1]
    colours: dict[str, Any] = {
        f"{name}PaletteColorLookupTable{part}": value
        for name in ("Red", "Green", "Blue")
        for part, value in (("Descriptor", [256, 0, 8]), ("Data", table.tobytes()))
    }
    file = make_dicom(tmp_path / "a.dcm", "capture", values, PhotometricInterpretation="PALETTE COLOR", **colours)
    (frame,) = read_frames(open_dicom(file))
    assert frame.white == 255
    np.testing.assert_array_equal(frame.pixels, np.repeat((255 - values)[..., None], 3, axis=2))


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
def test_tables_in_words_are_applied(name: str, explicit: bool, tmp_path: Path) -> None:
    """Apply a table whose data are bytes of the file's own order, as most writers have it."""
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    table = ((values.ravel().astype(np.float64) / 4095) ** 2 * 65535).astype(np.uint16)
    header = pydicom.dcmread(make_dicom(tmp_path / "a.dcm", "fundus16", values, bits=12))
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "OW", table.tobytes())
    setattr(header, name, [item])
    if not explicit:
        header.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    header.save_as(tmp_path / "b.dcm", implicit_vr=not explicit, little_endian=True)
    (frame,) = read_frames(open_dicom(tmp_path / "b.dcm"))
    np.testing.assert_allclose(frame.pixels / frame.white, table.reshape(64, 64) / 65535, atol=0.5 / frame.white + 1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"NumberOfFrames": 0}, "0 frames"),
        ({"Rows": 0}, "0 pixels"),
        ({"Rows": 900}, "damaged"),  # more than the pixels that are there
        ({"Columns": None}, "no Columns"),
        ({"PixelData": None}, "no pixels"),
        ({"BitsStored": 17}, "cannot be stored"),
        ({"BitsAllocated": 32}, "32 bits"),
        ({"SamplesPerPixel": 3}, "values a pixel"),
        ({"PhotometricInterpretation": "HSV"}, "HSV"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "a segmentation"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, "a report"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "an encapsulated document"),
        ({"Rows": 60000, "Columns": 60000}, "more than the limit"),
    ],
    ids=str,
)
def test_what_holds_no_image_is_one_line_without_a_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = make_dicom(tmp_path / "a.dcm", "capture", np.zeros((8, 8), np.uint8), **change)
    with pytest.raises(ImageError, match=message) as raised:
        list(read_frames(open_dicom(file)))
    assert len(str(raised.value).splitlines()) == 1
    assert PATIENT not in str(raised.value)


def test_videos_and_unknown_syntaxes_are_refused(tmp_path: Path) -> None:
    for uid, message in (("1.2.840.10008.1.2.4.102", "a video"), ("1.2.3.4", "damaged|decodes")):
        file = pydicom.dcmread(make_dicom(tmp_path / "a.dcm", "photograph", np.zeros((8, 8, 3), np.uint8)))
        file.PixelData, file.file_meta.TransferSyntaxUID = pydicom.encaps.encapsulate([b"1234"]), uid
        pydicom.dcmwrite(tmp_path / "b.dcm", file, implicit_vr=False, little_endian=True, enforce_file_format=False)
        with pytest.raises(ImageError, match=message):
            list(read_frames(open_dicom(tmp_path / "b.dcm")))


def test_mutated_files_end_in_one_line(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    whole = make_dicom(tmp_path / "a.dcm", "fundus", np.full((12, 12, 3), 7, np.uint8)).read_bytes()
    for _ in range(150):
        data = bytearray(whole)
        for place in generator.integers(132, len(data), 4):
            data[place] = generator.integers(256)
        cut = bytes(data[: int(generator.integers(200, len(data) + 1))])
        try:
            list(read_frames(open_dicom(cut)))
        except ImageError as error:
            assert len(str(error).splitlines()) == 1


def test_folder_data_sets_hold_dicom_images(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    pictures = [generator.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(3)]
    for index, pixels in enumerate(pictures):
        make_dicom(tmp_path / "data" / "images" / f"{index}.dcm", "dermoscopy", pixels)
        Image.fromarray((pixels[..., 0] > 128).astype(np.uint8)).save(tmp_path / "data" / "masks" / f"{index}.png")
    (tmp_path / "data" / "labels.csv").write_text("image,a\n0.dcm,1\n1.dcm,0\n2.dcm,1\n")
    dataset = open_source(f"folder:{tmp_path / 'data'}", "all", cache=tmp_path / "cache")
    assert not scan_samples(dataset, cache=tmp_path / "cache")
    spec = Preprocessing(image_size=24)
    loader = TrainingLoader(dataset, spec, batch_size=3, augment=False, shuffle=False, seed=0)
    (batch,) = loader
    for row, record in zip(batch.image, dataset.records, strict=True):
        file = io.BytesIO()
        Image.fromarray(pictures[int(record.image.stem)]).save(file, "PNG")
        np.testing.assert_array_equal(row.numpy(), Preprocessor(spec)(file.getvalue()))


def test_colours_are_those_of_another_conversion(tmp_path: Path) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    stored = convert_color_space(rgb, "RGB", "YBR_FULL")
    file = make_dicom(tmp_path / "a.dcm", "photograph", stored, PhotometricInterpretation="YBR_FULL")
    (frame,) = read_frames(open_dicom(file))
    with Image.fromarray(stored, "YCbCr") as picture:
        expected = np.asarray(picture.convert("RGB"), np.int32)
    assert np.abs(frame.pixels.astype(np.int32) - expected).max() <= 2


@pytest.mark.parametrize("name", BARE)
def test_files_without_a_preamble_are_named(name: str) -> None:
    with pytest.raises(ImageError, match="found DICOM without the preamble"):
        read_header((SHIPPED / "test_files" / name).read_bytes())


def test_silence_ends_with_the_last_who_wants_it(recwarn: pytest.WarningsRecorder) -> None:
    """Leave in the order of threads, which is any: none may take another's silence away, or keep it for ever."""
    logger, before = logging.getLogger("pydicom"), warnings.filters[:]
    first, second = quiet(), quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    warnings.warn("Invalid value for VR PN: 'Doe^Jane'", stacklevel=1)
    assert not logger.propagate
    assert not recwarn.list
    second.__exit__(None, None, None)
    assert logger.propagate
    assert warnings.filters == before


def test_a_library_that_is_broken_is_one_line_each_time(tmp_path: Path) -> None:
    """Name the first failure. What is left of a module fails in other words, which say nothing."""
    (tmp_path / "pydicom").mkdir()
    (tmp_path / "pydicom" / "__init__.py").write_text("import pydicom.uid\nraise AttributeError('no RTLD_NOW')\n")
    (tmp_path / "pydicom" / "uid.py").touch()
    code = """
from pathlib import Path
from data_pipeline.dicom import open_dicom
from data_pipeline.image_header import ImageError
from data_pipeline.volume_file import is_volume
print(is_volume(Path("a.dcm")))
for _ in range(2):
    try:
        open_dicom(Path("a.dcm"))
    except ImageError as error:
        print(error)
"""
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths},
                         capture_output=True, text=True, check=True)  # fmt: skip
    line = "pydicom cannot be imported (AttributeError: no RTLD_NOW)"
    assert run.stdout.splitlines() == ["False", line, line]
