"""Test SEG and SR with independent readers: highdicom's, pydicom, and the tools of Debian's dcmtk and dicom3tools."""

import codecs
import json
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom._dicom_dict import DicomDictionary

from deploy.client.__main__ import main
from deploy.client.dicom import Codes, Found, read_codes, write_dicom
from deploy.server import Server
from tests.helpers.dicom import CLASSES, PATIENT, make_dicom

SEG_CLASSES = ("background", "lesion", "IRF")
FRAMES = {"oct": 3}
GREY = ("fundus16", "oct", "capture")
# Of dicom3tools: highdicom gives a segment's number beside its frame's, as TID 1410 asks and this tool does not expect.
EXPECTED = "Shall not be present when ReferencedFrameNumber is present"


def pixels_of(kind: str, seed: int = 0, size: tuple[int, int] = (24, 36)) -> NDArray[Any]:
    """Make the pixels of a class of objects."""
    frames = (FRAMES[kind],) if kind in FRAMES else ()
    colour = () if kind in GREY else (3,)
    values = np.random.default_rng(seed).integers(0, 256, (*frames, *size, *colour))
    return values.astype(np.uint16 if kind == "fundus16" else np.uint8)


def found_in(source: Path, mask: NDArray[np.uint8], probabilities: NDArray[np.float32] | None = None) -> Found:
    """Describe an answer about a source."""
    return Found(
        header=pydicom.dcmread(source),
        mask=mask,
        probabilities=probabilities,
        seg_classes=SEG_CLASSES,
        measurements={"lesion": {("area", "mm2"): 1.25, ("share", "%"): 3.0}, "IRF": {("area", "pixels"): 12.0}},
        labels={"melanoma": 0.75, "nevus": 0.125},
        weights="0123abcd",
    )


def drawn(frames: int) -> NDArray[np.uint8]:
    """Draw two classes, of which the last frame shows one."""
    mask = np.zeros((frames, 24, 36), np.uint8)
    mask[:, 4:12, 3:20] = 1
    mask[0, 15:20, 22:30] = 2
    return mask


def run_tool(*command: str) -> str:
    """Run a tool of Debian's, or skip the test where it is not installed."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed (apt-get install dcmtk dicom3tools)")
    run = subprocess.run(command, capture_output=True, check=False)
    return (run.stdout + run.stderr).decode(errors="replace")


def values_in(content: Any) -> Iterator[float]:
    """Yield the numbers of a report, and of what is below it."""
    for item in content:
        if item.get("ValueType") == "NUM":
            yield float(item.MeasuredValueSequence[0].NumericValue)
        yield from values_in(item.get("ContentSequence") or [])


def concepts_in(dataset: Any) -> dict[tuple[str, str], str]:
    """Return the meanings of this project's own concepts in an object, and in what is below it, by their values."""
    found: dict[tuple[str, str], str] = {}
    stack = [dataset]
    while stack:
        one = stack.pop()
        if one.get("CodingSchemeDesignator") == "99RESFORMER":
            key = (str(one.CodeValue), str(one.CodingSchemeDesignator))
            assert found.setdefault(key, str(one.CodeMeaning)) == one.CodeMeaning, key
        stack += [item for element in one if element.VR == "SQ" for item in element.value]
    return found


def segment_of(segmentation: Any, source: Any, index: int, frames: int) -> NDArray[np.bool_]:
    """Return where a segment is, (frames, H, W), as highdicom reads it by its source."""
    options = {"segment_numbers": [index], "assert_missing_frames_are_empty": True}
    if frames > 1:
        numbers = list(range(1, frames + 1))
        stack = segmentation.get_pixels_by_source_frame(source.SOPInstanceUID, numbers, **options)
    else:
        stack = segmentation.get_pixels_by_source_instance([source.SOPInstanceUID], **options)
    return np.asarray(stack[..., 0] > 0)


def tracked_in(dataset: Any) -> set[str]:
    """Return the unique identifiers by which a report, and what is below it, follows its findings."""
    found = {str(dataset.UID)} if dataset.get("ValueType") == "UIDREF" else set()
    return found.union(*(tracked_in(item) for item in dataset.get("ContentSequence") or []))


def test_a_report_follows_the_segments_by_their_identifiers(tmp_path: Path) -> None:
    source = make_dicom(tmp_path / "a.dcm", "dermoscopy", pixels_of("dermoscopy"), spacing=(0.01, 0.02))
    seg, sr = write_dicom(found_in(source, drawn(1)), tmp_path / "out", Codes(), deidentify=False)
    segments = {str(one.TrackingUID) for one in pydicom.dcmread(tmp_path / seg).SegmentSequence}
    assert len(segments) == 2
    assert segments < tracked_in(pydicom.dcmread(tmp_path / sr))


def test_a_source_in_a_frame_of_reference_without_a_plane_is_conformant(tmp_path: Path) -> None:
    source = make_dicom(tmp_path / "a.dcm", "capture", pixels_of("capture"))
    origin = pydicom.dcmread(source)
    origin.FrameOfReferenceUID = pydicom.uid.generate_uid()
    origin.save_as(source)
    seg, _ = write_dicom(found_in(source, drawn(1)), tmp_path / "out", Codes(), deidentify=False)
    assert "PatientOrientation" in pydicom.dcmread(tmp_path / seg)
    errors = [
        line for line in run_tool("dciodvfy", "-new", str(tmp_path / seg)).splitlines() if line.startswith("Error")
    ]
    assert not [line for line in errors if EXPECTED not in line]


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if "frames" not in kind])
def test_segmentations_and_reports_are_read_back_equal(kind: str, tmp_path: Path) -> None:
    source = make_dicom(tmp_path / "a.dcm", kind, pixels_of(kind), spacing=(0.01, 0.02))
    mask = drawn(FRAMES.get(kind, 1))
    seg, sr = write_dicom(found_in(source, mask), tmp_path / "out", Codes(), deidentify=False)
    read = highdicom.seg.segread(tmp_path / seg)
    origin = pydicom.dcmread(source)
    for index in (1, 2):
        np.testing.assert_array_equal(segment_of(read, origin, index, len(mask)), mask == index)
    assert read.get_segment_description(1).segmented_property_type.meaning == "Lesion"
    report = highdicom.sr.srread(tmp_path / sr)
    # Beside the sizes in the library of images.
    assert {0.125, 0.75, 1.25, 3.0, 12.0} <= set(values_in(report.ContentSequence))
    assert report.PatientName == read.PatientName == PATIENT
    assert report.StudyInstanceUID == read.StudyInstanceUID == origin.StudyInstanceUID
    text = run_tool("dsrdump", str(tmp_path / sr))
    assert "melanoma" in text
    assert "0123abcd" in text
    for name in (seg, sr):
        errors = [line for line in run_tool("dciodvfy", str(tmp_path / name)).splitlines() if line.startswith("Error")]
        assert not [line for line in errors if EXPECTED not in line]


def test_probabilities_become_a_fractional_segmentation(tmp_path: Path) -> None:
    source = make_dicom(tmp_path / "a.dcm", "dermoscopy", pixels_of("dermoscopy"))
    soft = np.random.default_rng(0).random((1, 24, 36, 2)).astype(np.float32)
    seg, _ = write_dicom(found_in(source, drawn(1), soft), tmp_path / "out", Codes(), deidentify=False)
    read = highdicom.seg.segread(tmp_path / seg)
    assert read.segmentation_type.value == "FRACTIONAL"
    restored = read.pixel_array.astype(np.float64) / read.MaximumFractionalValue
    np.testing.assert_allclose(np.moveaxis(restored, 0, -1), soft[0], atol=0.5 / 255 + 1e-6)


def test_an_empty_mask_is_written_and_read(tmp_path: Path) -> None:
    source = make_dicom(tmp_path / "a.dcm", "photograph", pixels_of("photograph"))
    seg, sr = write_dicom(found_in(source, np.zeros_like(drawn(1))), tmp_path / "out", Codes(), deidentify=False)
    assert not highdicom.seg.segread(tmp_path / seg).pixel_array.any()
    assert highdicom.sr.srread(tmp_path / sr).Modality == "SR"


@pytest.mark.parametrize("kind", ["dermoscopy", "capture", "oct"])
@pytest.mark.parametrize("classes", [SEG_CLASSES, SEG_CLASSES[:2]])
def test_one_class_alone_is_written_and_read(kind: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    """Write what most images show. Of a network of one class, no frame names its segment itself."""
    source = make_dicom(tmp_path / "a.dcm", kind, pixels_of(kind))
    mask = (drawn(FRAMES.get(kind, 1)) == 1).astype(np.uint8)
    found = replace(found_in(source, mask), seg_classes=classes)
    seg, sr = write_dicom(found, tmp_path / "out", Codes(), deidentify=False)
    read, origin = highdicom.seg.segread(tmp_path / seg), pydicom.dcmread(source)
    np.testing.assert_array_equal(segment_of(read, origin, 1, len(mask)), mask == 1)
    assert {1.25, 3.0} <= set(values_in(highdicom.sr.srread(tmp_path / sr).ContentSequence))


def fill(header: pydicom.Dataset) -> None:
    """Put names into all attributes of patient, study, trial and visit that can hold some, in sequences too."""
    texts = {"PN": "Doe^Jane", "DA": "19700101", **dict.fromkeys(("LO", "SH", "ST", "LT", "UT"), "Doe")}
    for tag, (kind, multiplicity, _, retired, keyword) in DicomDictionary.items():
        if tag >> 16 not in (0x8, 0x10, 0x12, 0x32, 0x38, 0x40) or retired or not keyword:
            continue
        if kind in texts and multiplicity.startswith("1"):
            setattr(header, keyword, texts[kind])
        elif kind == "SQ" and "Identification" in keyword:
            inner = pydicom.Dataset()
            inner.InstitutionName, inner.PersonTelephoneNumbers = "Doe", "12345"
            setattr(header, keyword, [inner])


@pytest.mark.parametrize("kind", ["dermoscopy", "oct"])
def test_deidentified_answers_hold_no_name(kind: str, tmp_path: Path) -> None:
    source = make_dicom(
        tmp_path / "a.dcm", kind, pixels_of(kind), StudyDescription="Jane at home", InstitutionName="Doe Clinic"
    )
    found = found_in(source, drawn(FRAMES.get(kind, 1)))
    fill(found.header)
    for group in found.header.get("PerFrameFunctionalGroupsSequence") or []:
        group.FrameContentSequence = [pydicom.Dataset()]
        group.FrameContentSequence[0].FrameComments = "Doe"
    for name in write_dicom(found, tmp_path / "out", Codes(), deidentify=True):
        data = (tmp_path / name).read_bytes()
        for secret in (b"Doe", b"Jane", b"12345", b"19700101", b"A1"):
            assert secret not in data
        written = pydicom.dcmread(tmp_path / name)
        assert written.StudyInstanceUID == found.header.StudyInstanceUID
        assert written.PatientIdentityRemoved == "YES" and written.DeidentificationMethod


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("capture", {"StudyInstanceUID": None}, "has no StudyInstanceUID"),
        ("capture_frames", {}, "needs a FrameOfReferenceUID"),
        ("oct", {"SharedFunctionalGroupsSequence": None}, "has no SharedFunctionalGroupsSequence"),
        # An MR image, whose class has a place in space.
        ("capture", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "no FrameOfReferenceUID, which its class needs"),
        ("capture", {"StudyTime": "Doe^Jane"}, "StudyTime cannot hold what it says"),
        ("capture", {"Modality": None}, "has no Modality"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_what_a_source_lacks_is_named_and_nothing_is_written(
    kind: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    frames = np.stack([pixels_of("capture")] * 2) if kind != "capture" else pixels_of("capture")
    source = make_dicom(tmp_path / "a.dcm", kind, frames, **change)
    mask = drawn(2) if kind != "capture" else drawn(1)
    with pytest.raises(ValueError, match=message) as raised:
        write_dicom(found_in(source, mask), tmp_path / "out", Codes(), deidentify=False)
    assert PATIENT not in str(raised.value)
    assert [file.name for file in tmp_path.iterdir()] == ["a.dcm"]


def test_names_of_any_script_are_written_and_concepts_differ(tmp_path: Path) -> None:
    """Write Russian names of classes beside a Japanese name of a patient, whose character set highdicom refuses."""
    classes, labels = ("background", "опухоль", "ожог"), {"опухоль": 0.5, "kind one of two": 0.25, "kind one of one": 0}
    source = make_dicom(tmp_path / "a.dcm", "dermoscopy", pixels_of("dermoscopy"))
    header = pydicom.dcmread(source)
    header.SpecificCharacterSet, header.PatientName = ["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"
    header.save_as(source)
    measured = {name: {("share", "%"): 3.0} for name in classes[1:]}
    found = replace(found_in(source, drawn(1)), seg_classes=classes, labels=labels, measurements=measured)
    before = found.header.to_json()
    seg, sr = write_dicom(found, tmp_path / "out", Codes(), deidentify=False)
    read = highdicom.seg.segread(tmp_path / seg)
    assert [read.get_segment_description(index).segment_label for index in (1, 2)] == list(classes[1:])
    assert found.header.to_json() == before
    report = pydicom.dcmread(tmp_path / sr)
    assert read.PatientName == report.PatientName == "Yamada^Tarou=山田^太郎"
    meanings = concepts_in(report)
    assert {"опухоль", "Probability of опухоль", "Probability of kind one of two"} <= set(meanings.values())
    assert len(set(meanings.values())) == len(meanings), "each value has one meaning"


def test_a_size_that_every_frame_repeats_is_that_of_all(tmp_path: Path) -> None:
    source = make_dicom(tmp_path / "a.dcm", "oct", pixels_of("oct"), spacing=(0.01, 0.02))
    header = pydicom.dcmread(source)
    (shared,) = header.SharedFunctionalGroupsSequence
    for frame in header.PerFrameFunctionalGroupsSequence:
        frame.PixelMeasuresSequence = shared.PixelMeasuresSequence
    del shared.PixelMeasuresSequence
    header.save_as(source)
    seg, _ = write_dicom(found_in(source, drawn(3)), tmp_path / "out", Codes(), deidentify=False)
    (measures,) = pydicom.dcmread(tmp_path / seg).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert list(measures.PixelSpacing) == [0.01, 0.02]


def test_tables_of_codes_override_and_are_checked(tmp_path: Path) -> None:
    table = tmp_path / "codes.json"
    table.write_text(json.dumps({"IRF": {"type": ["246", "SCT", "Fluid"], "category": ["1", "SCT", "Thing"]}}))
    codes = read_codes(table)
    assert codes.type_of("IRF") == ("246", "SCT", "Fluid")
    assert codes.category_of("IRF") == ("1", "SCT", "Thing")
    value, *rest = codes.type_of("🫀 cœur")
    assert rest == ["99RESFORMER", "🫀 cœur"] and value.startswith("CUR") and len(value) <= 16
    table.write_bytes(codecs.BOM_UTF8 + table.read_bytes())
    assert read_codes(table) == codes
    table.write_bytes(b"\x80\0")
    with pytest.raises(ValueError, match=r"codes\.json must be a JSON object, and is no text"):
        read_codes(table)
    for wrong in ("[]", '{"a": 1}', '{"a": {"type": ["x"]}}', '{"a": {"type": ["x", "y", "z"], "more": 1}}'):
        table.write_text(wrong)
        with pytest.raises(ValueError, match=r"codes\.json"):
            read_codes(table)


def test_a_study_of_mixed_files_by_the_command(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, output = tmp_path / "study", tmp_path / "out"
    study.mkdir()
    # Without an ending, as media have them.
    make_dicom(study / "IM0001", "dermoscopy", pixels_of("dermoscopy", size=(60, 90)), spacing=(0.05, 0.05))
    make_dicom(study / "b.dcm", "fundus", pixels_of("fundus"), spacing=(9.0, 9.0))
    make_dicom(study / "c.dcm", "capture", pixels_of("capture"), StudyInstanceUID=None)
    make_dicom(study / "d.dcm", "capture", pixels_of("capture"), SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    Image.fromarray(pixels_of("photograph")).save(study / "e.png")
    (study / "f.dcm").write_bytes((study / "IM0001").read_bytes())
    (study / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    # One at a time, so that the first of two files of one object is the one that is answered.
    command = [str(study / "DICOMDIR"), "--jobs", "1", "--url", server.grpc_url, "--output", str(output), "--dicom"]
    assert main(command) == 1
    captured = capsys.readouterr()
    result = json.loads((output / "result.json").read_text())
    assert [Path(one["file"]).name for one in result["images"]] == ["IM0001", "b.dcm", "c.dcm", "e.png"]
    assert {Path(one["file"]).name for one in result["failures"]} == {"d.dcm", "f.dcm"}
    (same,) = [one["reason"] for one in result["failures"] if one["file"].endswith("f.dcm")]
    assert same == f"the same DICOM object as {study / 'IM0001'}, which is answered"
    first, eye, alone, plain = result["images"]
    assert first["sha256"]
    assert first["sha256"].encode() in (output / "IM0001.sr.dcm").read_bytes()
    assert first["dicom"] == ["IM0001.seg.dcm", "IM0001.sr.dcm"]
    assert first["areas"]["IRF"]["mm2"] == pytest.approx(first["areas"]["IRF"]["pixels"] * 0.0025)
    assert eye["spacing"] is None
    assert any("not plausible" in note for note in eye["notes"])
    assert any("no StudyInstanceUID" in note for note in alone["notes"])
    assert plain["dicom"] == []
    mask = np.asarray(Image.open(output / first["mask"]))
    read = highdicom.seg.segread(output / "IM0001.seg.dcm")
    shown = {int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber): frame
             for group, frame in zip(read.PerFrameFunctionalGroupsSequence, read.pixel_array.reshape(-1, *mask.shape),
                                     strict=True)}  # fmt: skip
    for index in range(1, 4):
        np.testing.assert_array_equal(shown.get(index, np.zeros_like(mask)) > 0, mask == index)
    # No name of a patient anywhere but in the objects that have to be filed.
    assert PATIENT not in captured.out + captured.err
    for file in output.iterdir():
        assert PATIENT not in file.name
        if file.suffix != ".dcm":
            assert PATIENT.encode() not in file.read_bytes()


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning:pydicom.valuerep")
def test_values_that_a_header_cannot_hold_are_not_printed(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "Jane-1970"
    make_dicom(tmp_path / "a.dcm", "capture", pixels_of("capture"), PatientBirthDate=secret, StudyTime=secret)
    make_dicom(tmp_path / "b.dcm", "oct", pixels_of("oct"), PatientBirthDate=secret, StudyTime=secret)
    command = [str(tmp_path), "--url", server.grpc_url, "--output", str(tmp_path / "out"), "--dicom"]
    with warnings.catch_warnings(record=True) as printed:
        warnings.simplefilter("always")
        assert main(command) == 0
    captured = capsys.readouterr()
    assert secret not in captured.out + captured.err + "".join(str(one.message) for one in printed)
    assert "StudyTime" in captured.err
    assert "PatientBirthDate" in captured.err
