"""Process one volume: its slices go to the server some at a time, and memory holds it and its mask alone."""

import io
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dicom import Frame
from data_pipeline.files import write_whole
from data_pipeline.image_header import ImageError
from data_pipeline.volume_file import ENDINGS, Volume, ending_of, open_volume, slices_of, write_mask
from deploy.client.client import Result
from deploy.client.dicom import Found, write_dicom
from deploy.client.errors import AccessDenied, ClientError, ServerFault, ServerUnavailable
from deploy.client.image import Failure, Wanted, milliseconds
from deploy.client.measure import Spacing, SpacingError, check_spacing, clean
from deploy.client.picture import EYES, Claims
from deploy.client.plan import Task
from deploy.client.transport import Served
from deploy.client.volume.en_face import map_png, thickness_of
from deploy.client.volume.slices import SliceStore, join

Ask = Callable[[Iterable[Frame]], Iterator[Result]]
"""Send slices to the server, some at a time, and yield its answers in their order."""


@dataclass(frozen=True, kw_only=True)
class VolumeResult:
    """Hold what the server computed for one volume, as `result.json` keeps it.

    file: the volume's path.
    mask: name of the mask volume in the output folder, or None for DICOM, whose mask is a SEG.
    thickness: name of the data of the thickness maps, (classes - 1, slices, columns), millimetres or pixels.
    maps: names of their pictures, by class.
    slices: how many.
    width: of a slice in pixels.
    height: of the same.
    spacing: the millimetres between rows, columns and slices, or None where they are not known.
    classes: the largest probability of each label over the slices.
    slice_classes: the probability of each label in each slice.
    areas: pixels, percent of the volume and, with a spacing, mm3 of each segmentation class.
    slice_pixels: pixels of each class in each slice.
    cleaning: which components of a slice were left out, or None.
    dicom: names of the SEG and the SR that were written.
    notes: what a reader should know about the volume, a line each.
    timings: milliseconds for all requests together and for all of the volume.
    version: number of the network's version that answered.
    sha256: hash of that version, empty for a server that does not say it.
    stamp: the file's size in bytes and the time of its last change.
    name: what its results in the output folder begin with.
    """

    file: str
    mask: str | None
    thickness: str
    maps: dict[str, str]
    slices: int
    width: int
    height: int
    spacing: dict[str, float] | None
    classes: dict[str, float]
    slice_classes: dict[str, list[float]]
    areas: dict[str, dict[str, float]]
    slice_pixels: dict[str, list[int]]
    cleaning: dict[str, Any] | None
    dicom: list[str]
    notes: list[str]
    timings: dict[str, float]
    version: str = ""
    sha256: str = ""
    # Results of before have none of these, and are computed again.
    stamp: dict[str, float] = field(default_factory=dict)
    name: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Return the names of what a later run needs to find."""
        return (*([self.mask] if self.mask else []), self.thickness, *self.maps.values(), *self.dicom)


@dataclass
class _Answers:
    """Collect the answers of a volume's slices."""

    mask: NDArray[np.uint8]
    results: list[Result]
    thickness: list[NDArray[np.uint16]]


def process_volume(
    ask: Ask,
    task: Task,
    output: Path,
    wanted: Wanted,
    served: Served,
    claims: Claims,
    advance: Callable[[float], None],
) -> VolumeResult | Failure:
    """Read, send, measure and write one volume.

    Args:
        ask: sends slices.
        task: the volume, and what its results are called.
        output: the folder for results.
        wanted: what is written.
        served: what answers.
        claims: which DICOM objects have been met.
        advance: called with the share of the volume that is done since the last call.

    Raises:
        ServerUnavailable: where the server goes away.
        AccessDenied: where it asks for another token.
        OSError: where `output` cannot be written.
    """
    start = time.perf_counter()
    try:
        # Before it is read: what is changed meanwhile is another file to a later run.
        stamp = task.stamp
        volume = open_volume(task.source)
        if volume.header is not None:
            claims.take(volume.header, task.source)
    except (ImageError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Failure(str(task.source), reason)
    store = SliceStore(output, task.name, task.source, stamp, served)
    try:
        answers = _ask_all(ask, volume, store, wanted, advance)
    except (ServerUnavailable, AccessDenied):
        raise
    except (ClientError, ImageError) as error:
        # Of a volume that gives no result, nothing is to be left, and another file of the object may give one.
        claims.release(task.source)
        store.remove()
        return Failure(str(task.source), str(error))
    result = _write(volume, answers, task, stamp, output, wanted, start)
    store.remove()
    return result


def _ask_all(ask: Ask, volume: Volume, store: SliceStore, wanted: Wanted, advance: Callable[[float], None]) -> _Answers:
    mask = np.zeros((volume.slices, volume.height, volume.width), np.uint8)
    answers = _Answers(mask, [], [])
    known = store.known(volume.slices)
    missing = (frame for index, frame in enumerate(slices_of(volume)) if index not in known)
    for index, result in enumerate(join(store, known, ask(missing), volume.slices)):
        assert result.own_mask is not None
        mask[index] = clean(result.own_mask, wanted.cleaning) if wanted.cleaning.active else result.own_mask
        answers.thickness.append(thickness_of(mask[index], len(result.seg_classes)))
        # Without the pixels, which are many times as much as all else.
        answers.results.append(_light(result))
        advance(1 / volume.slices)
    if len(answers.results) != volume.slices:
        raise ImageError(f"the volume has {len(answers.results)} slices, and states {volume.slices}", "damaged")
    if len({result.sha256 for result in answers.results}) > 1:
        raise ServerFault("the server has changed its network between two slices of this volume: send it again")
    return answers


def _light(result: Result) -> Result:
    return replace(result, mask=np.zeros((0, 0), np.uint8), seg_probabilities=None, own_mask=None)


def _write(
    volume: Volume,
    answers: _Answers,
    task: Task,
    stamp: dict[str, float],
    output: Path,
    wanted: Wanted,
    start: float,
) -> VolumeResult:
    names, labels = answers.results[0].seg_classes, list(answers.results[0].class_probabilities)
    by_slice = {name: [result.class_probabilities[name] for result in answers.results] for name in labels}
    spacing, notes = _spacing_of(volume, wanted)
    pixels = {
        name: np.count_nonzero(answers.mask == index, axis=(1, 2)).tolist() for index, name in enumerate(names) if index
    }
    areas = {name: _measured(sum(counts), answers.mask.size, spacing) for name, counts in pixels.items()}
    # Its pixels are not needed any more, and writing takes as much memory again.
    volume.image = None
    mask_name = _write_volume(volume, answers.mask, task, output)
    maps = _write_maps(answers, names, spacing, task, output)
    result = VolumeResult(
        file=str(task.source),
        stamp=stamp,
        name=task.name,
        mask=mask_name,
        thickness=f"{task.name}.thickness.npy",
        maps=maps,
        slices=volume.slices,
        width=volume.width,
        height=volume.height,
        spacing=spacing,
        # As RETOUCH detects: a volume shows what any of its slices shows.
        classes={name: max(values) for name, values in by_slice.items()},
        slice_classes=by_slice,
        areas=areas,
        slice_pixels=pixels,
        cleaning=vars(wanted.cleaning) if wanted.cleaning.active else None,
        dicom=[],
        notes=notes,
        timings={
            "request_ms": milliseconds(sum(result.seconds for result in answers.results)),
            "total_ms": milliseconds(time.perf_counter() - start),
        },
        version=answers.results[0].version,
        sha256=answers.results[0].sha256,
    )
    result.dicom.extend(_write_dicom(volume, answers, result, task, output, wanted))
    return result


def _spacing_of(volume: Volume, wanted: Wanted) -> tuple[dict[str, float] | None, list[str]]:
    """Return the spacing where it is stated and plausible, with the volume's notes."""
    if volume.spacing is None:
        known = "--spacing says how large pixels are, and not how far slices are from each other"
        return None, [*volume.notes, *([known] if wanted.pixel_mm is not None else [])]
    row, column, step = volume.spacing
    eye = volume.header is not None and str(volume.header.get("Modality", "")) in EYES
    try:
        if wanted.pixel_mm is not None:
            row = column = wanted.pixel_mm
        check_spacing(Spacing(row_mm=row, column_mm=column, source="the volume"), volume.width, volume.height, eye=eye)
        # The other way in which it extends.
        check_spacing(Spacing(row_mm=step, column_mm=column, source="the volume"), volume.width, volume.slices, eye=eye)
    except SpacingError as error:
        return None, [*volume.notes, f"no mm³: {error}"]
    return {"row_mm": row, "column_mm": column, "slice_mm": step}, list(volume.notes)


def _measured(voxels: int, total: int, spacing: dict[str, float] | None) -> dict[str, float]:
    measured: dict[str, float] = {"pixels": voxels, "percent": round(100 * voxels / total, 4)}
    if spacing:
        volume = voxels * spacing["row_mm"] * spacing["column_mm"] * spacing["slice_mm"]
        # Of a few digits, and not of a few places: voxels may be as small as microns.
        measured["mm3"] = float(f"{volume:.7g}")
    return measured


def _write_volume(volume: Volume, mask: NDArray[np.uint8], task: Task, output: Path) -> str | None:
    if volume.geometry is None:
        return None
    name = f"{task.name}.mask{ENDINGS[ending_of(task.source)]}"
    write_mask(volume, mask, output / name)
    return name


def _write_maps(
    answers: _Answers, names: tuple[str, ...], spacing: dict[str, float] | None, task: Task, output: Path
) -> dict[str, str]:
    # (classes - 1, slices, columns)
    thickness = np.stack(answers.thickness, axis=1).astype(np.float32) * (spacing["row_mm"] if spacing else 1)
    file = io.BytesIO()
    np.save(file, thickness)
    write_whole(output / f"{task.name}.thickness.npy", file.getvalue())
    maps = {name: f"{task.name}.thickness-{index}.png" for index, name in enumerate(names) if index}
    for picture, plane in zip(maps.values(), thickness, strict=True):
        write_whole(output / picture, map_png(plane))
    return maps


def _write_dicom(
    volume: Volume, answers: _Answers, result: VolumeResult, task: Task, output: Path, wanted: Wanted
) -> list[str]:
    """Write the SEG and the SR of a DICOM volume, and return their names. What it lacks for them becomes a note."""
    if volume.header is None or not wanted.dicom:
        return []
    found = Found(
        header=volume.header,
        mask=answers.mask,
        probabilities=None,
        seg_classes=answers.results[0].seg_classes,
        measurements={
            # Voxels without a size are no volume, and nothing else that DICOM names.
            name: {("volume share", "%"): area["percent"]} | ({("volume", "mm3"): area["mm3"]} if "mm3" in area else {})
            for name, area in result.areas.items()
        },
        labels=result.classes,
        weights=result.sha256,
    )
    try:
        return list(write_dicom(found, output / task.name, wanted.codes, deidentify=wanted.deidentify))
    except ValueError as error:
        result.notes.append(str(error))
        return []
