"""Ask the server about one image, and write what its answer gives: overlay, mask, contours, measurements."""

import io
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_pipeline.enlarge import resize_planes
from data_pipeline.files import write_whole
from data_pipeline.image_header import ImageError
from data_pipeline.overlay import colour_of, draw, open_upright, png
from data_pipeline.tiff import has_more_pages
from deploy.client.client import Client, Result
from deploy.client.dicom import Codes, Found, write_dicom
from deploy.client.errors import AccessDenied, ClientError, ServerFault, ServerUnavailable
from deploy.client.measure import Cleaning, clean, measure
from deploy.client.measure.contours import coco, geojson
from deploy.client.picture import TIFF, Claims, Picture, find_spacing, read_picture
from deploy.client.plan import Task
from deploy.contract import sample_image

Mask = NDArray[np.uint8]
NOTHING_LEFT_OUT = Cleaning()
CONTOURS = {"coco": ("coco.json", coco), "geojson": ("geojson", geojson)}
OWN_CODES = Codes()


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Say what is written for each image beside its overlay and mask.

    pixel_mm: side of a pixel in millimetres where a person states it, else None: what the files state then counts.
    cleaning: which components of a mask are left out.
    contours: names of the formats of outlines.
    dicom: whether a SEG and an SR are written for each DICOM image.
    probabilities: whether the SEG holds probabilities in place of a decided mask.
    deidentify: whether SEG and SR leave out what names the patient.
    codes: concepts of classes and labels.
    """

    pixel_mm: float | None = None
    cleaning: Cleaning = NOTHING_LEFT_OUT
    contours: tuple[str, ...] = ()
    dicom: bool = False
    probabilities: bool = False
    deidentify: bool = False
    codes: Codes = OWN_CODES

    def to_fields(self) -> dict[str, Any]:
        """Return what is wanted as fields for JSON, by which a later run tells whether it wants the same."""
        return {name: vars(value) if hasattr(value, "__dict__") else value for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """Hold what the server computed for one file, as `result.json` keeps it.

    file: the image's path.
    overlay: name of its overlay in the output folder.
    mask: name of its mask there, a PNG of class indices at the image's own size.
    raw_mask: name of the mask before components were left out, or None where none were to be.
    width: of the image in pixels, turned as its EXIF says.
    height: of the same.
    spacing: the millimetres between rows and columns, and who says so, or None where it is not known.
    classes: the probability of each label.
    areas: pixels, percent of the image and, with a spacing, mm2 that each segmentation class covers.
    components: the same of each connected component of a class, the largest first, with its centroid and box.
    cleaning: which components were left out, or None.
    dicom: names of the SEG and the SR that were written.
    notes: what a reader should know about the file, a line each.
    timings: milliseconds for the request alone and for all of the file.
    request_id: what the server's log calls the request.
    version: number of the network's version that answered.
    sha256: hash of that version, empty for a server that does not say it.
    stamp: the file's size in bytes and the time of its last change.
    name: what its results in the output folder begin with.
    contours: names of the files of outlines that were written.
    """

    file: str
    overlay: str
    mask: str
    raw_mask: str | None
    width: int
    height: int
    spacing: dict[str, Any] | None
    classes: dict[str, float]
    areas: dict[str, dict[str, float]]
    components: dict[str, list[dict[str, Any]]]
    cleaning: dict[str, Any] | None
    dicom: list[str]
    notes: list[str]
    timings: dict[str, float]
    request_id: str
    version: str = ""
    sha256: str = ""
    # Results of before have none of these, and are computed again.
    stamp: dict[str, float] = field(default_factory=dict)
    name: str = ""
    contours: list[str] = field(default_factory=list)

    @property
    def files(self) -> tuple[str, ...]:
        """Return the names of what a later run needs to find."""
        return (self.overlay, self.mask, *([self.raw_mask] if self.raw_mask else []), *self.contours, *self.dicom)


@dataclass(frozen=True)
class Failure:
    """Name a file that gave no result, with the reason in one line."""

    file: str
    reason: str


def process_file(client: Client, task: Task, output: Path, wanted: Wanted, claims: Claims) -> FileResult | Failure:
    """Read, send, measure, draw and write one file.

    Raises:
        ServerUnavailable: where the server goes away, for any image.
        AccessDenied: where it asks for another token.
        OSError: where `output` cannot be written.
    """
    start = time.perf_counter()
    try:
        # Before it is read: what is changed meanwhile is another file to a later run.
        stamp = task.stamp
        picture = read_picture(task.source, client.contract, claims)
        # Sent before it is decoded here: of a bad image, the server's reason is the one to report.
        result = segment(client, picture.data)
        image = open_upright(picture.data)
    # No fault of this file: the whole run ends, and --resume goes on from there.
    except (ServerUnavailable, AccessDenied):
        raise
    except (ClientError, ImageError, OSError, Image.DecompressionBombError) as error:
        # The text of an OSError repeats the path, which the failure's line begins with.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Failure(str(task.source), reason)
    assert result.own_mask is not None
    spacing, notes = find_spacing(picture, image.size, wanted.pixel_mm)
    if picture.data[:4] in TIFF and has_more_pages(picture.data):
        notes.append("a TIFF file of several pages, of which the first is answered")
    mask = clean(result.own_mask, wanted.cleaning) if wanted.cleaning.active else result.own_mask
    areas, components = measure(mask, result.seg_classes, spacing)
    write_pictures(output, task, image, mask, result.own_mask, wanted)
    contours = {f"{task.name}.{ending}": write for ending, write in (CONTOURS[name] for name in wanted.contours)}
    for name, write in contours.items():
        write_whole(output / name, write(mask, result.seg_classes, task.source.name))
    written = write_answers(picture, task, output, result, mask, areas, wanted, notes)
    return FileResult(
        file=str(task.source),
        stamp=stamp,
        name=task.name,
        overlay=task.overlay,
        mask=task.mask,
        raw_mask=task.raw_mask if wanted.cleaning.active else None,
        contours=list(contours),
        width=image.width,
        height=image.height,
        spacing=vars(spacing) if spacing else None,
        classes=result.class_probabilities,
        areas=areas,
        components=components,
        cleaning=vars(wanted.cleaning) if wanted.cleaning.active else None,
        dicom=written,
        notes=notes,
        timings={"request_ms": milliseconds(result.seconds), "total_ms": milliseconds(time.perf_counter() - start)},
        request_id=result.request_id,
        version=result.version,
        sha256=result.sha256,
    )


def write_answers(
    picture: Picture,
    task: Task,
    output: Path,
    result: Result,
    mask: Mask,
    areas: dict[str, dict[str, float]],
    wanted: Wanted,
    notes: list[str],
) -> list[str]:
    """Write the SEG and the SR of a DICOM image where they are wanted, and return their names.

    What the image lacks for them becomes a note.
    """
    if not wanted.dicom or picture.header is None:
        return []
    soft = None
    if wanted.probabilities:
        assert result.seg_probabilities is not None
        planes = resize_planes(result.seg_probabilities, (mask.shape[1], mask.shape[0]))
        # Of several classes the first is the background, which has no segment.
        soft = np.moveaxis(planes if len(planes) == 1 else planes[1:], 0, -1)[None].copy()
        # What was left out of the mask is left out here as well.
        soft[0, result.own_mask != mask] = 0
    found = Found(
        header=picture.header,
        mask=mask[None],
        probabilities=soft,
        seg_classes=result.seg_classes,
        measurements={
            name: {("share", "%"): area["percent"]}
            | ({("area", "mm2"): area["mm2"]} if "mm2" in area else {("area", "pixels"): area["pixels"]})
            for name, area in areas.items()
        },
        labels=result.class_probabilities,
        weights=result.sha256,
    )
    try:
        return list(write_dicom(found, output / task.name, wanted.codes, deidentify=wanted.deidentify))
    except ValueError as error:
        notes.append(str(error))
        return []


def write_pictures(output: Path, task: Task, image: Image.Image, mask: Mask, raw: Mask, wanted: Wanted) -> None:
    """Write the overlay and the mask, and the mask as it came where components were left out of it."""
    write_whole(output / task.overlay, png(draw(image, mask)))
    write_whole(output / task.mask, mask_png(mask))
    if wanted.cleaning.active:
        write_whole(output / task.raw_mask, mask_png(raw))


def mask_png(mask: Mask) -> bytes:
    """Encode class indices (H, W) as a PNG file whose palette holds the colours of the overlays."""
    image = Image.fromarray(mask, "P")
    used = int(mask.max(initial=0))
    image.putpalette([0, 0, 0, *(value for index in range(1, used + 1) for value in colour_of(index))])
    file = io.BytesIO()
    # 8 bits a pixel whatever the number of classes, so that every reader sees the indices.
    image.save(file, "PNG", compress_level=1, bits=8)
    return file.getvalue()


def segment(client: Client, data: bytes) -> Result:
    """Return the answer for one image, with its mask at the image's own size.

    Raises ServerFault where the server has gone down with this image twice, and answers for another one.
    """
    try:
        return client.segment(data, own_size=True)
    except ServerUnavailable:
        # Of a server that is gone for any image.
        client.segment(sample_image())
    try:
        # Another image, sent at the same time, may have been the one.
        return client.segment(data, own_size=True)
    except ServerUnavailable as error:
        client.segment(sample_image())
        raise ServerFault(f"the server goes down with this image, and answers for others ({error})") from None


def milliseconds(seconds: float) -> float:
    """Return seconds as milliseconds, rounded to two places."""
    return round(seconds * 1e3, 2)
