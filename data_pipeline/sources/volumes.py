"""MetaImage volumes of B-scans and their references -> one folder of PNG slices a volume, converted once."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from PIL import Image

from data_pipeline.files import whole_folder
from data_pipeline.records import Record, Volume

SCAN, REFERENCE, FACTS = "oct.mhd", "reference.mhd", "volume.json"


@dataclass(frozen=True)
class Scan:
    """pixels (slices, H, W) uint8 or uint16, classes (slices, H, W) uint8, slice_mm3: what one whole slice covers."""

    pixels: NDArray[Any]
    classes: NDArray[np.uint8]
    slice_mm3: float


class VolumeError(Exception):
    """A volume that cannot be used; the message is the kind of problem, in the plural, to count volumes by."""


def volume_records(folder: Path, name: str, classes: int, cache: Path) -> tuple[Record, ...]:
    """One record a B-scan of `folder`, in order; labels: whether the B-scan shows each class but the background.

    The grey values keep the volume's depth. A second call reads what the first one wrote, unless a file changed.
    """
    target = cache / "volumes" / f"{name.replace('/', '-')}-{_key(folder)}"
    if not target.is_dir():
        _write(target, read_volume(folder, classes), classes)
    facts = json.loads((target / FACTS).read_text())
    volume = Volume(name, facts["slice_mm3"])
    return tuple(Record(*_slice_files(target, i), tuple(row), volume) for i, row in enumerate(facts["labels"]))


def read_volume(folder: Path, classes: int) -> Scan:
    """The two volumes of a folder; VolumeError unless they are of one shape and hold what they should."""
    try:
        scan, reference = (SimpleITK.ReadImage(str(folder / name)) for name in (SCAN, REFERENCE))
    except RuntimeError:
        raise VolumeError(f"volumes whose {SCAN} or {REFERENCE} is missing or damaged") from None
    if scan.GetSize() != reference.GetSize():
        raise VolumeError("volumes whose reference has another shape")
    pixels, indices = SimpleITK.GetArrayFromImage(scan), SimpleITK.GetArrayFromImage(reference)
    if pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.uint16):
        raise VolumeError("volumes that are not three-dimensional of 8 or 16 bits without sign")
    if not np.isin(np.unique(indices), range(classes)).all():
        raise VolumeError(f"volumes whose reference holds other values than 0 to {classes - 1}")
    area = pixels.shape[1] * pixels.shape[2]
    return Scan(pixels, indices.astype(np.uint8), float(np.prod(scan.GetSpacing())) * area)


def _write(target: Path, scan: Scan, classes: int) -> None:
    with whole_folder(target) as temporary:
        for index, (pixels, indices) in enumerate(zip(scan.pixels, scan.classes, strict=True)):
            for file, values in zip(_slice_files(temporary, index), (pixels, indices), strict=True):
                Image.fromarray(values).save(file, compress_level=1)
        labels = [[int((indices == value).any()) for value in range(1, classes)] for indices in scan.classes]
        (temporary / FACTS).write_text(json.dumps({"slice_mm3": scan.slice_mm3, "labels": labels}))


def _slice_files(folder: Path, index: int) -> tuple[Path, Path]:
    return folder / f"image_{index:03d}.png", folder / f"mask_{index:03d}.png"


def _key(folder: Path) -> str:
    """Changes when any file of the volume does."""
    files = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in sorted(folder.iterdir())]
    return hashlib.sha256("\n".join([str(folder.resolve()), *files]).encode()).hexdigest()[:12]
