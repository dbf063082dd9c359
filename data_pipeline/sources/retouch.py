"""Open `retouch:DIR`: the challenge's training volumes of three vendors, converted to slices and split by volume."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from data_pipeline.fields import shown
from data_pipeline.files import code_version, is_left_behind, whole_folder
from data_pipeline.image_header import ImageError
from data_pipeline.records import BACKGROUND, DataError, Dataset, Record, SourceVolume, Split
from data_pipeline.sources.pairing import Problems, choose_split, hash_names, require_some, set_aside
from data_pipeline.volume_header import check_volume, pixel_files

PREFIX = "RETOUCH-TrainingSet-"
VENDORS = ("Cirrus", "Spectralis", "Topcon")
FLUIDS = ("IRF", "SRF", "PED")
SEG_CLASSES = (BACKGROUND, *FLUIDS)
SCAN, REFERENCE, FACTS = "oct.mhd", "reference.mhd", "volume.json"
PARALLEL = 1e-3  # of the unit vectors of directions
BLOCK, BLOCKS = 1 << 16, 16  # bytes and number of the parts of a file that its key depends on
VERSION = code_version(__file__, "volume_header.py")


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


def open_retouch(
    folder: Path, split: Split, samples: int | None, seed: int, cache: Path, skip_bad: bool = False
) -> Dataset:
    """Return the B-scans of one split: 80, 10 or 10 % of each vendor's volumes, chosen by `seed`.

    The labels tell which fluids a B-scan shows.

    Args:
        folder: holds RETOUCH-TrainingSet-Cirrus, -Spectralis or -Topcon, or is one of them.
        split: which split.
        samples: at most this many records, spread over all volumes of the split.
        seed: of the split.
        cache: folder of converted volumes.
        skip_bad: whether to leave out volumes that cannot be used.

    Raises:
        DataError: volumes are missing or wrong. The message lists every problem.
    """
    volumes = _find_volumes(folder)
    slices: dict[str, tuple[Record, ...]] = {}
    problems: Problems = {}
    # All volumes are converted, whatever the split, so that all problems are listed at once.
    for name, place in track(sorted(volumes.items()), "converting volumes", transient=True):
        try:
            slices[name] = volume_records(place, name, cache)
        except VolumeError as error:  # noqa: PERF203 (a volume takes a second)
            problems.setdefault(str(error), []).append(name)
    bad, notes = set_aside(folder, problems, skip_bad)
    # Each vendor is split by a separate seed, so a vendor's folder alone is split as it is among the others: a network
    # that was trained on all vendors can be scored on one without having seen its test volumes.
    of_vendor = {vendor: [name for name in volumes if name.startswith(f"{vendor}/")] for vendor in VENDORS}
    chosen = [
        name for index, vendor in enumerate(VENDORS) for name in choose_split(of_vendor[vendor], split, (seed, index))
    ]
    records = [record for name in chosen if name not in bad for record in slices[name]]
    require_some(folder, split, len(volumes), chosen, records, "volumes")
    return Dataset(
        name=f"retouch:{folder}",
        records=_spread(records, samples),
        seg_classes=SEG_CLASSES,
        labels=FLUIDS,
        grey=True,
        split_seed=seed,
        divided={vendor: hash_names(names) for vendor, names in of_vendor.items() if names},
        notes=notes,
    )


def _find_volumes(folder: Path) -> dict[str, Path]:
    """Return the volumes' folders by vendor and name, such as Cirrus/TRAIN001."""
    sets = {vendor: _vendor_folder(folder, vendor) for vendor in VENDORS}
    volumes = {
        f"{vendor}/{place.name}": place
        for vendor, place_of_set in sets.items()
        if place_of_set
        for place in place_of_set.iterdir()
        if place.is_dir() and not is_left_behind(place.name)
    }
    if not volumes:
        names = ", ".join(PREFIX + vendor for vendor in VENDORS)
        raise DataError(
            f"{folder} holds no volumes: expected a folder with {names}, or one of these; "
            f"each holds one folder a volume with {SCAN} and {REFERENCE}"
        )
    return volumes


def _vendor_folder(folder: Path, vendor: str) -> Path | None:
    """Return the folder of a vendor's volumes: the one given or one in it, under the archive's name or the vendor's."""
    names = (f"{PREFIX}{vendor}".lower(), vendor.lower())
    if folder.name.lower() in names:
        return folder
    inner = (place for place in folder.iterdir() if place.is_dir()) if folder.is_dir() else ()
    return next((place for place in sorted(inner) if place.name.lower() in names), None)


def _spread(records: list[Record], samples: int | None) -> tuple[Record, ...]:
    """Take at most `samples` records at equal distances, because neighbouring B-scans look alike."""
    count = len(records) if samples is None else min(samples, len(records))
    return tuple(records[index] for index in np.arange(count) * len(records) // max(count, 1))


def volume_records(folder: Path, name: str, cache: Path) -> tuple[Record, ...]:
    """Return one record for each B-scan of a volume, in order.

    The labels tell for each class but the background whether the B-scan shows it. The grey values keep the volume's
    depth. A second call reads what the first one wrote, unless a file of the volume changed.

    Args:
        folder: holds oct.mhd and reference.mhd with their data.
        name: name of the volume, unique in its data set.
        cache: folder of converted volumes.

    Raises:
        VolumeError: the volume cannot be used.
    """
    target = cache / "volumes" / f"{name.replace('/', '-')}-{_key(folder)}"
    if not target.is_dir():
        _write(target, read_volume(folder))
    facts = json.loads((target / FACTS).read_text(encoding="utf-8"))
    volume = SourceVolume(name, facts["slice_mm3"])
    files = [_slice_files(target, index) for index in range(len(facts["labels"]))]
    return tuple(
        Record(image=image, mask=mask, labels=tuple(row), volume=volume)
        for (image, mask), row in zip(files, facts["labels"], strict=True)
    )


def read_volume(folder: Path) -> Scan:
    """Read the volume and the reference of a folder, or raise VolumeError if they cannot be used together."""
    # Here, because its import takes 0.4 s, which every command over another source would wait for.
    import SimpleITK

    files = [_header_file(folder, name) for name in (SCAN, REFERENCE)]
    try:
        stated, _ = (check_volume(file) for file in files)
        scan, reference = (SimpleITK.ReadImage(str(file)) for file in files)
    except (ImageError, RuntimeError):
        raise VolumeError(f"volumes whose {SCAN} or {REFERENCE} is missing or damaged") from None
    if scan.GetSize() != reference.GetSize():
        raise VolumeError("volumes whose reference has another shape")
    if not np.allclose(scan.GetDirection(), reference.GetDirection(), atol=PARALLEL):
        raise VolumeError("volumes whose reference is turned or mirrored against the scan")
    if scan.GetSpacing() == (1.0, 1.0, 1.0):
        # What no file states is 1 to its readers.
        raise VolumeError(f"volumes whose {SCAN} does not state its spacing")
    if stated.millimetres is None:
        raise VolumeError(f"volumes whose {SCAN} states its spacing in a unit that is not known ({shown(stated.unit)})")
    pixels, indices = SimpleITK.GetArrayFromImage(scan), SimpleITK.GetArrayFromImage(reference)
    # PNG has no other types.
    if pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.uint16):
        raise VolumeError("volumes that are not three-dimensional of 8 or 16 bits without sign")
    if not np.isin(np.unique(indices), range(len(SEG_CLASSES))).all():
        raise VolumeError(f"volumes whose reference holds other values than 0 to {len(FLUIDS)}")
    # The product of the spacing in millimetres is one voxel in cubic millimetres.
    voxel = float(np.prod([stated.millimetres * step for step in scan.GetSpacing()]))
    return Scan(pixels, indices.astype(np.uint8), voxel * pixels.shape[1] * pixels.shape[2])


def _header_file(folder: Path, name: str) -> Path:
    """Find a volume's header under its name in any case, or raise VolumeError where it or its data are missing."""
    header = next((file for file in sorted(folder.iterdir()) if file.name.lower() == name), None)
    if header is None:
        raise VolumeError(f"volumes whose {SCAN} or {REFERENCE} is missing or damaged")
    try:
        pixel_files(header)
    except ImageError as error:
        raise VolumeError(f"volumes without the files of pixels that their {name} names: {error}") from None
    return header


def _write(target: Path, scan: Scan) -> None:
    """Write the slices, their labels and the volume of a slice to a new folder."""
    with whole_folder(target) as temporary:
        for index, (pixels, indices) in enumerate(zip(scan.pixels, scan.classes, strict=True)):
            for file, values in zip(_slice_files(temporary, index), (pixels, indices), strict=True):
                # Fast rather than small, because these files are only a cache.
                Image.fromarray(values).save(file, compress_level=1)
        fluids = range(1, len(SEG_CLASSES))
        labels = [[int((indices == value).any()) for value in fluids] for indices in scan.classes]
        (temporary / FACTS).write_text(json.dumps({"slice_mm3": scan.slice_mm3, "labels": labels}), encoding="utf-8")


def _slice_files(folder: Path, index: int) -> tuple[Path, Path]:
    return folder / f"image_{index:03d}.png", folder / f"mask_{index:03d}.png"


def _pixels_elsewhere(folder: Path) -> list[Path]:
    headers = [file for file in folder.iterdir() if file.name.lower() in (SCAN, REFERENCE)]
    try:
        return [file for header in headers for file in pixel_files(header)]
    except (ImageError, OSError):
        # Said when the volume is read.
        return []


def _key(folder: Path) -> str:
    """Hash the code, and of each of a volume's files its name, size, date and some of its content."""
    digest = hashlib.sha256(f"{VERSION} {folder.resolve()}".encode())
    inside = [path for path in folder.iterdir() if path.is_file()]
    # Headers may name files in other folders.
    for path in sorted({*inside, *_pixels_elsewhere(folder)}):
        status = path.stat()
        digest.update(f"\n{path.name} {status.st_size} {status.st_mtime_ns} ".encode())
        with path.open("rb") as file:
            # Not the whole content, because every start would read gigabytes.
            for place in np.linspace(0, max(status.st_size - BLOCK, 0), BLOCKS).astype(int):
                file.seek(int(place))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:12]
