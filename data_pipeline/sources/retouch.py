"""`retouch:DIR`: the challenge's training volumes of three vendors, split by volume."""

from pathlib import Path

import numpy as np
from rich.progress import track

from data_pipeline.records import BACKGROUND, DataError, Dataset, Record, Split
from data_pipeline.sources.pairing import Problems, draw_split, refuse
from data_pipeline.sources.volumes import VolumeError, volume_records

PREFIX = "RETOUCH-TrainingSet-"
VENDORS = ("Cirrus", "Spectralis", "Topcon")
FLUIDS = ("IRF", "SRF", "PED")


def open_retouch(folder: Path, split: Split, samples: int | None, seed: int, cache: Path) -> Dataset:
    """The B-scans of one split's volumes, at most `samples`, spread over all; DataError lists every problem.

    folder: holds RETOUCH-TrainingSet-Cirrus, -Spectralis or -Topcon, or is one of them. 80 / 10 / 10 % of each vendor's
    volumes, drawn by `seed`: a vendor alone is split as it is among the others.
    """
    volumes = _find(folder)
    slices: dict[str, tuple[Record, ...]] = {}
    problems: Problems = {}
    for name, place in track(sorted(volumes.items()), "converting volumes", transient=True):
        try:
            slices[name] = volume_records(place, name, 1 + len(FLUIDS), cache)
        except VolumeError as error:  # noqa: PERF203 (a volume takes a second)
            problems.setdefault(str(error), []).append(name)
    refuse(folder, problems)
    chosen = [name for index, vendor in enumerate(VENDORS) for name in _draw(volumes, vendor, split, (seed, index))]
    records = [record for name in chosen for record in slices[name]]
    if not records:
        raise DataError(f"{folder}: the {split} split is empty: {len(volumes)} volumes are too few to split")
    return Dataset(f"retouch:{folder}", _thin(records, samples), (BACKGROUND, *FLUIDS), FLUIDS, grey=True)


def _find(folder: Path) -> dict[str, Path]:
    """The volumes' folders by vendor and name, such as Cirrus/TRAIN001."""
    sets = {vendor: folder if folder.name == PREFIX + vendor else folder / (PREFIX + vendor) for vendor in VENDORS}
    volumes = {
        f"{vendor}/{place.name}": place
        for vendor, place_of_set in sets.items()
        if place_of_set.is_dir()
        for place in place_of_set.iterdir()
        if place.is_dir()
    }
    if not volumes:
        names = ", ".join(PREFIX + vendor for vendor in VENDORS)
        raise DataError(f"{folder} holds no volumes: expected a folder with {names}, or one of these")
    return volumes


def _draw(volumes: dict[str, Path], vendor: str, split: Split, seed: tuple[int, int]) -> list[str]:
    return draw_split([name for name in volumes if name.startswith(f"{vendor}/")], split, seed)


def _thin(records: list[Record], samples: int | None) -> tuple[Record, ...]:
    """At most `samples`, at equal distances: neighbouring B-scans look alike."""
    count = len(records) if samples is None else min(samples, len(records))
    return tuple(records[index] for index in np.arange(count) * len(records) // max(count, 1))
