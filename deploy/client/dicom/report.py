"""Make a DICOM structured report (SR, TID 1500) of measurements and of the labels' probabilities."""

from typing import Any

import highdicom
from highdicom import sr
from pydicom.sr.codedict import codes as dictionary
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from deploy.client.dicom.codes import PRIVATE, Codes, own_concept
from deploy.client.dicom.written import NAME, Found, equipment

SR_SERIES = 9002
UNITS = {
    "mm2": Code("mm2", "UCUM", "square millimeter"),
    "mm3": Code("mm3", "UCUM", "cubic millimeter"),
    "%": Code("%", "UCUM", "percent"),
    "pixels": Code("{pixels}", "UCUM", "pixels"),
    "1": Code("1", "UCUM", "no units"),
}
NAMES = {
    "area": Code("42798000", "SCT", "Area"),
    "volume": Code("118565006", "SCT", "Volume"),
    "share": Code("SHARE", PRIVATE, "Share of the image"),
    "volume share": Code("VOLUMESHARE", PRIVATE, "Share of the volume"),
}


def make_report(found: Found, source: Any, segmentation: Any, codes: Codes) -> Any:
    """Return an SR that refers to the source and to the segmentation.

    Args:
        found: the measurements and the probabilities.
        source: header of the source.
        segmentation: the SEG of the same source.
        codes: concepts of the classes and labels.
    """
    made = equipment()
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(), name=NAME, manufacturer_name=made["manufacturer"], model_name=f"{NAME} {made['version']}"
    )
    observer = sr.ObserverContext(observer_type=dictionary.DCM.Device, observer_identifying_attributes=device)
    groups = [
        _of_class(found, name, index, segmentation, codes) for index, name in enumerate(found.seg_classes) if index
    ]
    if found.labels:
        groups.append(_of_labels(found, codes))
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=Code("363679005", "SCT", "Imaging procedure"),
        imaging_measurements=groups,
        title=dictionary.DCM.ImagingMeasurementReport,
        referenced_images=_library(source),
    )
    return sr.EnhancedSR(
        evidence=[source, segmentation],
        content=content[0],
        series_instance_uid=generate_uid(),
        series_number=SR_SERIES,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=made["manufacturer"],
        is_complete=True,
    )


def _library(source: Any) -> list[Any] | None:
    """Return what the library of images lists: the source, where highdicom knows what its class shows."""
    try:
        sr.ImageLibrary([source])
    except ValueError:
        return None
    return [source]


def _algorithm(found: Found) -> Any:
    made = equipment()
    parameters = [f"weights: {found.weights}"] if found.weights else None
    return sr.AlgorithmIdentification(name=NAME, version=made["version"], parameters=parameters)


def _of_class(found: Found, name: str, index: int, segmentation: Any, codes: Codes) -> Any:
    """Return the measurements of one class, with a reference to its segment where this has a frame."""
    values = [
        sr.Measurement(name=NAMES[what], value=value, unit=UNITS[unit])
        for (what, unit), value in found.measurements[name].items()
    ]
    # As the segment has it, by which others find that the two are one.
    tracked = segmentation.SegmentSequence[index - 1]
    shared = {
        "tracking_identifier": sr.TrackingIdentifier(uid=tracked.TrackingUID, identifier=tracked.TrackingID),
        "finding_type": Code(*codes.type_of(name)),
        "algorithm_id": _algorithm(found),
        "measurements": values,
    }
    if not (found.mask == index).any():
        return sr.MeasurementsAndQualitativeEvaluations(**shared)
    if len(found.mask) > 1:
        segment = sr.ReferencedSegment.from_segmentation(segmentation, segment_number=index)
        return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **shared)
    # Not by highdicom's own look-up, which names frame 1 of a source that has no numbers of frames.
    frame = sr.ReferencedSegmentationFrame(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        frame_number=_frame_of(segmentation, index),
        segment_number=index,
        source_image=sr.SourceImageForSegmentation(found.header.SOPClassUID, found.header.SOPInstanceUID),
    )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_segment=frame, **shared)


def _frame_of(segmentation: Any, segment: int) -> int:
    groups = enumerate(segmentation.PerFrameFunctionalGroupsSequence, 1)
    return next(
        number for number, group in groups if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == segment
    )


def _of_labels(found: Found, codes: Codes) -> Any:
    probabilities = [
        sr.Measurement(name=_probability_of(label, codes), value=value, unit=UNITS["1"])
        for label, value in found.labels.items()
    ]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier=f"{NAME} labels"),
        finding_type=Code("LABELS", PRIVATE, "Probabilities of image-level labels"),
        algorithm_id=_algorithm(found),
        measurements=probabilities,
    )


def _probability_of(label: str, codes: Codes) -> Any:
    value, scheme, meaning = codes.type_of(label)
    # The concept of a label names the finding itself, and what is measured is its probability. The name before the
    # finding's code, because terms of long names may begin alike.
    concept = own_concept(f"Probability of {meaning}" if scheme == PRIVATE else f"Probability of {meaning} {value}")
    return highdicom.sr.CodedConcept(*concept[:2], f"Probability of {meaning}"[:64])
