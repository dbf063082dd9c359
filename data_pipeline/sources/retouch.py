"""Open `retouch:DIR`, the challenge's training volumes of three vendors, split by volume."""

from pathlib import Path

import numpy as np
from rich.progress import track

from data_pipeline.records import BACKGROUND, DataError, Dataset, Record, Split
from data_pipeline.sources.pairing import Problems, choose_split, raise_problems
from data_pipeline.sources.volumes import VolumeError, volume_records

PREFIX = "RETOUCH-TrainingSet-"
VENDORS = ("Cirrus", "Spectralis", "Topcon")
FLUIDS = ("IRF", "SRF", "PED")


def open_retouch(folder: Path, split: Split, samples: int | None, seed: int, cache: Path) -> Dataset:
    """Return the B-scans of one split: 80, 10 or 10 % of each vendor's volumes, chosen by `seed`.

    The labels tell which fluids a B-scan shows.

    Args:
        folder: holds RETOUCH-TrainingSet-Cirrus, -Spectralis or -Topcon, or is one of them.
        split: which split.
        samples: at most this many records, spread over all volumes of the split.
        seed: of the split.
        cache: folder of converted volumes.

    Raises:
        DataError: volumes are missing or wrong. The message lists every problem.
    """
    volumes = _find_volumes(folder)
    slices: dict[str, tuple[Record, ...]] = {}
    problems: Problems = {}
    # All volumes are converted, whatever the split, so that all problems are listed at once.
    for name, place in track(sorted(volumes.items()), "converting volumes", transient=True):
        try:
            slices[name] = volume_records(place, name, 1 + len(FLUIDS), cache)
        except VolumeError as error:  # noqa: PERF203 (a volume takes a second)
            problems.setdefault(str(error), []).append(name)
    raise_problems(folder, problems)
    # Each vendor is split by a separate seed, so a vendor's folder alone is split as it is among the others: a network
    # that was trained on all vendors can be scored on one without having seen its test volumes.
    chosen = [
        name
        for index, vendor in enumerate(VENDORS)
        for name in choose_split([name for name in volumes if name.startswith(f"{vendor}/")], split, (seed, index))
    ]
    records = [record for name in chosen for record in slices[name]]
    if not records:
        raise DataError(f"{folder}: the {split} split is empty: {len(volumes)} volumes are too few to split")
    return Dataset(
        name=f"retouch:{folder}",
        records=_spread(records, samples),
        seg_classes=(BACKGROUND, *FLUIDS),
        labels=FLUIDS,
        grey=True,
    )


def _find_volumes(folder: Path) -> dict[str, Path]:
    """Return the volumes' folders by vendor and name, such as Cirrus/TRAIN001."""
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


def _spread(records: list[Record], samples: int | None) -> tuple[Record, ...]:
    """Take at most `samples` records at equal distances, because neighbouring B-scans look alike."""
    count = len(records) if samples is None else min(samples, len(records))
    return tuple(records[index] for index in np.arange(count) * len(records) // max(count, 1))
