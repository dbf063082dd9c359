"""Make a DICOM segmentation (SEG) of a mask."""

from copy import deepcopy
from typing import Any

import highdicom
import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from data_pipeline.overlay import colour_of
from deploy.client.dicom.codes import Codes
from deploy.client.dicom.written import NAME, Found, equipment

# Numbers of the series that are made, far from those of devices.
SEG_SERIES = 9001


def make_segmentation(found: Found, source: Any, codes: Codes) -> Any:
    """Return a SEG with a segment for each class but the background.

    It is binary, or fractional where probabilities were asked for.

    Args:
        found: the mask or the probabilities.
        source: the header that it refers to.
        codes: concepts of the classes.
    """
    made = equipment()
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=NAME,
        family=dictionary.DCM.ArtificialIntelligence,
        version=made["version"],
        source=made["manufacturer"],
        parameters={"weights": found.weights} if found.weights else None,
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=index,
            segment_label=name[:64],
            segmented_property_category=Code(*codes.category_of(name)),
            segmented_property_type=Code(*codes.type_of(name)),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=generate_uid(),
            tracking_id=f"{NAME} {name}"[:64],
            display_color=highdicom.color.CIELabColor.from_rgb(*colour_of(index)),
        )
        for index, name in enumerate(found.seg_classes)
        if index
    ]
    fractional = found.probabilities is not None
    # An ophthalmic photograph is a multi-frame object without functional groups, for which highdicom looks.
    lacking = "Ophthalmic Photography" in source.SOPClassUID.name and "SharedFunctionalGroupsSequence" not in source
    segmentation = highdicom.seg.Segmentation(
        source_images=[_with_groups(source) if lacking else source],
        pixel_array=found.probabilities if fractional else np.ascontiguousarray(found.mask),
        segmentation_type="FRACTIONAL" if fractional else "BINARY",
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=SEG_SERIES,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=made["manufacturer"],
        manufacturer_model_name=NAME,
        software_versions=made["version"],
        device_serial_number="1",
        content_label="SEGMENTATION",
    )
    _name_segments(segmentation)
    if lacking:
        del segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    # An image without a plane in space has to say how it is turned, or that this is unknown.
    groups = [*segmentation.SharedFunctionalGroupsSequence, *segmentation.PerFrameFunctionalGroupsSequence]
    if not any("PlaneOrientationSequence" in group for group in groups):
        segmentation.PatientOrientation = source.get("PatientOrientation", "")
    return segmentation


def _name_segments(segmentation: Any) -> None:
    """Write the segment of each frame into it, where highdicom looks for it but puts none if all are of one."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    if "SegmentIdentificationSequence" not in shared:
        return
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        frame.SegmentIdentificationSequence = deepcopy(shared.SegmentIdentificationSequence)
    del shared.SegmentIdentificationSequence


def _with_groups(source: Any) -> Any:
    """Return a copy of a header with functional groups, whose values are to be taken out of what is made of it."""
    copy, shared = Dataset(), Dataset()
    copy.file_meta = source.file_meta
    copy.update(source)
    copy.NumberOfFrames = 1
    shared.PixelMeasuresSequence = highdicom.PixelMeasuresSequence(pixel_spacing=(1.0, 1.0), slice_thickness=1.0)
    copy.SharedFunctionalGroupsSequence = [shared]
    return copy
