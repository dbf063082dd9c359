"""Write a SEG and an SR for one DICOM image, whole or not at all."""

import io
from collections.abc import Mapping
from copy import copy, deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dicom.attributes import PER_FRAME, SHARED
from data_pipeline.dicom.file import MISSING, quiet
from data_pipeline.files import write_whole
from deploy.client.dicom.codes import Codes

SEG_ENDING, SR_ENDING = "seg.dcm", "sr.dcm"
NAME = "ResFormer"
MEASURES = "PixelMeasuresSequence"
# Of the functional groups, those that say where a frame is.
GEOMETRY = (MEASURES, "PlanePositionSequence", "PlaneOrientationSequence")
# What a source may lack although every object has it, and what the answer could not be filed without.
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
OPTIONAL = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
            "ReferringPhysicianName", "StudyID")  # fmt: skip
# All that `--deidentify` takes from a source: what files an answer, and where its pixels are. Names may stand in any
# other attribute.
IMPERSONAL = (
    *(*NEEDED, "FrameOfReferenceUID", "Modality", "ImageType", "SeriesNumber", "InstanceNumber", "NumberOfFrames"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "LossyImageCompression", "PixelSpacing", "SliceThickness"),
    *("SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient", "PatientOrientation", "Laterality"),
    *("ImageLaterality", SHARED, PER_FRAME),
)
METHOD = "resformer-deploy: a list of what is kept"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Hold what is written about one source.

    header: pydicom's Dataset of the source.
    mask: (N, H, W) uint8 class indices, a row for each frame.
    probabilities: (N, H, W, K) float32 for a fractional segmentation, one for each class but the background, or None.
    seg_classes: names of the mask's values, "background" first.
    measurements: by class, values by their name and unit.
    labels: the probability of each label.
    weights: the hash of the weights that answered, or an empty text where the server does not say.
    """

    header: Any
    mask: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None
    seg_classes: tuple[str, ...]
    measurements: Mapping[str, Mapping[tuple[str, str], float]]
    labels: Mapping[str, float]
    weights: str


def write_dicom(found: Found, stem: Path, codes: Codes, *, deidentify: bool) -> tuple[str, str]:
    """Write STEM.seg.dcm and STEM.sr.dcm, and return their names.

    Args:
        found: what to write.
        stem: the files' path before their endings.
        codes: concepts of the classes and labels.
        deidentify: whether to leave out what names the patient.

    Raises:
        ValueError: the source lacks what they need. The message is one line without values of the header.
        OSError: a file cannot be written.
    """
    try:
        from deploy.client.dicom.report import make_report
        from deploy.client.dicom.segmentation import make_segmentation
    except ModuleNotFoundError:
        raise ValueError(MISSING) from None
    with quiet():
        check_source(found)
        try:
            source = usable_source(found, deidentify=deidentify)
            segmentation = make_segmentation(found, source, codes)
            report = make_report(found, source, segmentation, codes)
            # Both before either is written, because values are looked at then, too.
            contents = [(SEG_ENDING, as_file(segmentation)), (SR_ENDING, as_file(report))]
        # highdicom's and pydicom's own errors have no class of their own, and may repeat values.
        except Exception as error:
            raise ValueError(f"no SEG and SR: {_reason(error, found.header)}") from None
    names = []
    for ending, content in contents:
        path = stem.with_name(f"{stem.name}.{ending}")
        write_whole(path, content)
        names.append(path.name)
    return names[0], names[1]


def as_file(dataset: Any) -> bytes:
    """Return a DICOM object as the bytes of a file."""
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def _reason(error: Exception, header: Any) -> str:
    """Say why no answer can be made of a source, without values of its header."""
    from pydicom.datadict import tag_for_keyword

    # What highdicom takes for given. The name of an attribute is no value of the header.
    if isinstance(error, AttributeError) and tag_for_keyword(error.name or ""):
        return f"the source has no {error.name}"
    if "Frame Of Reference UID" in str(error):
        return "the source has no FrameOfReferenceUID, which its class needs"
    if wrong := [name for name in _names_of(header) if not _is_valid(header, name)]:
        return f"the source's {', '.join(wrong)} cannot hold what it says"
    return f"highdicom refuses this source ({type(error).__name__})"


def _names_of(header: Any) -> list[str]:
    """List the attributes of a header by keyword, without reading their values."""
    from pydicom.datadict import keyword_for_tag

    return [keyword for tag in header.keys() if (keyword := keyword_for_tag(tag))]  # noqa: SIM118 (elements are read)


def _is_valid(header: Any, keyword: str) -> bool:
    from pydicom.config import RAISE
    from pydicom.valuerep import validate_value

    try:
        element = header[keyword]
        for value in element.value if element.VM > 1 else [element.value]:
            # Of numbers in text, what the file holds.
            validate_value(element.VR, getattr(value, "original_string", value), RAISE)
    # Of a value that cannot be read, pydicom raises anything.
    except Exception:
        return False
    return True


def check_source(found: Found) -> None:
    """Raise ValueError where something is missing that no answer can do without."""
    missing = [keyword for keyword in NEEDED if not found.header.get(keyword)]
    if missing:
        raise ValueError(f"no SEG and SR: the source has no {', '.join(missing)}")
    frames = len(found.mask)
    if frames > 1 and not found.header.get("FrameOfReferenceUID"):
        raise ValueError("no SEG and SR: a source of several frames needs a FrameOfReferenceUID, which this one lacks")


def usable_source(found: Found, *, deidentify: bool) -> Any:
    """Return a copy of a source's header from which the answers are made, without its pixels."""
    from pydicom import Dataset

    source = Dataset()
    source.file_meta = found.header.file_meta
    for element in found.header:
        kept = element.keyword in IMPERSONAL if deidentify else element.keyword != "PixelData"
        if kept:
            # A copy, because setting an element changes it.
            source.add(copy(element))
    for keyword in OPTIONAL:
        if keyword not in source:
            setattr(source, keyword, "")
    if deidentify:
        source.PatientIdentityRemoved, source.DeidentificationMethod = "YES", METHOD
    _use_groups(source, deidentify=deidentify)
    # highdicom cannot read back what it writes of a plane whose thickness is unknown. The report has the areas.
    if "SliceThickness" not in source and "PixelSpacing" in source:
        del source.PixelSpacing
    # Names of classes may be of any script, and some of the sets that sources name are unknown to highdicom.
    source.SpecificCharacterSet = "ISO_IR 192"
    return source


def _use_groups(source: Any, *, deidentify: bool) -> None:
    """Give a source functional groups of its own, with one size of the pixels where its frames agree on one."""
    if SHARED not in source:
        return
    shared, frames = deepcopy(source[SHARED].value), deepcopy(source.get(PER_FRAME) or [])
    if deidentify:
        for group in (*shared, *frames):
            for element in list(group):
                if element.keyword not in GEOMETRY:
                    del group[element.tag]
    sizes = [frame.get(MEASURES) for frame in frames]
    if shared and MEASURES not in shared[0] and sizes and sizes[0] and all(size == sizes[0] for size in sizes):
        setattr(shared[0], MEASURES, sizes[0])
        for frame in frames:
            delattr(frame, MEASURES)
    setattr(source, SHARED, shared)
    if frames:
        setattr(source, PER_FRAME, frames)


def equipment() -> dict[str, str]:
    """Return what SEG and SR say of the program that made them."""
    return {"manufacturer": "resformer-deploy", "version": version("resformer-deploy")}
