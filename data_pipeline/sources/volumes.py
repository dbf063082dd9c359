"""Convert MetaImage volumes of B-scans and their references to PNG slices, once, in the cache."""

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
    """Hold a volume and its reference.

    pixels: (slices, H, W) uint8 or uint16.
    classes: (slices, H, W) uint8 class indices.
    slice_mm3: volume in cubic millimetres that one whole slice covers.
    """

    pixels: NDArray[Any]
    classes: NDArray[np.uint8]
    slice_mm3: float


class VolumeError(Exception):
    """Report that a volume cannot be used.

    The message is the kind of problem in the plural, by which the volumes are counted.
    """


def volume_records(folder: Path, name: str, classes: int, cache: Path) -> tuple[Record, ...]:
    """Return one record for each B-scan of a volume, in order.

    The labels tell for each class but the background whether the B-scan shows it. The grey values keep the volume's
    depth. A second call reads what the first one wrote, unless a file of the volume changed.

    Args:
        folder: holds oct.mhd and reference.mhd with their data.
        name: name of the volume, unique in its data set.
        classes: number of classes with the background.
        cache: folder of converted volumes.

    Raises:
        VolumeError: the volume cannot be used.
    """
    target = cache / "volumes" / f"{name.replace('/', '-')}-{_key(folder)}"
    if not target.is_dir():
        _write(target, read_volume(folder, classes), classes)
    facts = json.loads((target / FACTS).read_text())
    volume = Volume(name, facts["slice_mm3"])
    files = [_slice_files(target, index) for index in range(len(facts["labels"]))]
    return tuple(
        Record(image=image, mask=mask, labels=tuple(row), volume=volume)
        for (image, mask), row in zip(files, facts["labels"], strict=True)
    )


def read_volume(folder: Path, classes: int) -> Scan:
    """Read the volume and the reference of a folder, or raise VolumeError if they cannot be used together."""
    try:
        scan, reference = (SimpleITK.ReadImage(str(folder / name)) for name in (SCAN, REFERENCE))
    except RuntimeError:
        raise VolumeError(f"volumes whose {SCAN} or {REFERENCE} is missing or damaged") from None
    if scan.GetSize() != reference.GetSize():
        raise VolumeError("volumes whose reference has another shape")
    pixels, indices = SimpleITK.GetArrayFromImage(scan), SimpleITK.GetArrayFromImage(reference)
    # PNG has no other types.
    if pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.uint16):
        raise VolumeError("volumes that are not three-dimensional of 8 or 16 bits without sign")
    if not np.isin(np.unique(indices), range(classes)).all():
        raise VolumeError(f"volumes whose reference holds other values than 0 to {classes - 1}")
    # The product of the spacing is one voxel in cubic millimetres.
    area = pixels.shape[1] * pixels.shape[2]
    return Scan(pixels, indices.astype(np.uint8), float(np.prod(scan.GetSpacing())) * area)


def _write(target: Path, scan: Scan, classes: int) -> None:
    """Write the slices, their labels and the volume of a slice to a new folder."""
    with whole_folder(target) as temporary:
        for index, (pixels, indices) in enumerate(zip(scan.pixels, scan.classes, strict=True)):
            for file, values in zip(_slice_files(temporary, index), (pixels, indices), strict=True):
                # Fast rather than small, because these files are only a cache.
                Image.fromarray(values).save(file, compress_level=1)
        labels = [[int((indices == value).any()) for value in range(1, classes)] for indices in scan.classes]
        (temporary / FACTS).write_text(json.dumps({"slice_mm3": scan.slice_mm3, "labels": labels}))


def _slice_files(folder: Path, index: int) -> tuple[Path, Path]:
    return folder / f"image_{index:03d}.png", folder / f"mask_{index:03d}.png"


def _key(folder: Path) -> str:
    """Hash the names, sizes and dates of a volume's files, so that the key changes when any of them does."""
    # Not by content, because every start would read gigabytes.
    files = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in sorted(folder.iterdir())]
    return hashlib.sha256("\n".join([str(folder.resolve()), *files]).encode()).hexdigest()[:12]
