"""Write generated images into the cache as a data folder with images/, masks/ and labels.csv."""

import csv
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from rich.progress import track

from data_pipeline.cores import cores
from data_pipeline.files import whole_folder
from data_pipeline.records import Dataset, Record, Split
from data_pipeline.sources.synthetic import oct as oct_scans
from data_pipeline.sources.synthetic import skin

# Part of the cache folder's name: raise one whenever its generator's output changes.
VERSIONS = {"skin": 2, "oct": 2}
GENERATORS: dict[str, ModuleType] = {"skin": skin, "oct": oct_scans}
# Part of every sample's seed, so that the splits share no image.
SPLITS: dict[Split, int] = {"train": 0, "validation": 1, "test": 2}
DEFAULT_SAMPLES: dict[Split, int] = {"train": 1000, "validation": 200, "test": 500}


def generate_folder(kind: str, split: Split, samples: int | None, seed: int, cache: Path) -> Dataset:
    """Return a generated data set, written to the cache unless it is already there.

    Args:
        kind: "skin" or "oct".
        split: which split.
        samples: number of images, by default that of `DEFAULT_SAMPLES`.
        seed: of the images.
        cache: where to write.
    """
    count = DEFAULT_SAMPLES[split] if samples is None else samples
    folder = cache / f"synthetic-{kind}-v{VERSIONS[kind]}-seed{seed}-{split}-{count}"
    if not folder.is_dir():
        _write(folder, kind, split, count, seed)
    return _read(folder, kind)


def _write(folder: Path, kind: str, split: Split, count: int, seed: int) -> None:
    with whole_folder(folder) as temporary:
        for name in ("images", "masks"):
            (temporary / name).mkdir()
        jobs = [(temporary, kind, (seed, SPLITS[split], index)) for index in range(count)]
        # Threads, because NumPy and Pillow let others run while they compute. Processes would have to be spawned, which
        # imports the caller's program again, torch and all, and fails where that has no `__main__` guard.
        pool = ThreadPoolExecutor(cores())
        try:
            rows = list(track(pool.map(_write_sample, jobs), f"generating {kind} ({split})", total=count))
        finally:
            # Without it, Ctrl-C would wait until every image is drawn.
            pool.shutdown(cancel_futures=True)
        _write_labels(temporary / "labels.csv", kind, rows)


def _write_sample(job: tuple[Path, str, tuple[int, int, int]]) -> tuple[str, tuple[int, ...]]:
    """Generate and write one image and its mask, and return the image's name and its labels."""
    folder, kind, key = job
    # A separate generator for each image, so that the result does not depend on which thread draws it.
    image, mask, labels = GENERATORS[kind].generate(np.random.default_rng(key))
    name = f"{key[-1]:05d}"
    path = folder / "images" / (name + GENERATORS[kind].SUFFIX)
    # JPEG takes the quality, PNG the level. Each ignores the other.
    Image.fromarray(image).save(path, quality=90, compress_level=1)
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return path.name, labels


def _write_labels(path: Path, kind: str, rows: list[tuple[str, tuple[int, ...]]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *GENERATORS[kind].LABELS])
    writer.writerows([name, *labels] for name, labels in rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def _read(folder: Path, kind: str) -> Dataset:
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    records = tuple(
        Record(
            image=folder / "images" / name,
            mask=folder / "masks" / f"{Path(name).stem}.png",
            labels=tuple(map(int, labels)),
        )
        for name, *labels in rows
    )
    generator = GENERATORS[kind]
    return Dataset(
        name=f"synthetic:{kind}",
        records=records,
        seg_classes=generator.SEG_CLASSES,
        labels=generator.LABELS,
        grey=kind == "oct",
    )
