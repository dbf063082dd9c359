"""Measure one data loader in a fresh process and print the figures as JSON (see test_data_pipeline.py)."""

import json
import os
import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bench.loader_peers import PeerSamples
from data_pipeline import Dataset, Preprocessing, Record, TrainingLoader
from data_pipeline.command_line import new_parser, positive
from data_pipeline.sources.prepared import open_prepared

TICKS = os.sysconf("SC_CLK_TCK")


def photographs(folder: Path, samples: int) -> Dataset:
    """Return `samples` records over the files of `folder`, which repeat."""
    images = sorted(folder.glob("*.jpg"))
    files = [images[index % len(images)] for index in range(samples)]
    records = tuple(Record(image=path, mask=path.with_suffix(".png"), labels=(0,)) for path in files)
    return Dataset(name="photographs", records=records, seg_classes=("background", "lesion"), labels=("label",))


def build(options: Namespace) -> Iterable[Any]:
    """Open the loader of `options.kind`: "dali", "dali-prepared" or one of the peers."""
    spec = Preprocessing(image_size=options.size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    if options.kind.startswith("dali"):
        prepared = options.kind == "dali-prepared"
        dataset = (
            open_prepared(options.folder, "train", None) if prepared else photographs(options.folder, options.samples)
        )
        chosen = {"augment": True, "shuffle": True, "seed": 0, "threads": options.workers}
        return TrainingLoader(dataset, spec, batch_size=options.batch_size, **chosen)
    samples = PeerSamples(photographs(options.folder, options.samples), spec, options.kind)
    # Persistent, because the second epoch is timed and must not start its workers once more.
    return torch.utils.data.DataLoader(
        samples, options.batch_size, shuffle=True, num_workers=options.workers, persistent_workers=True
    )


def family() -> list[int]:
    """Return the process ids of this process and its children."""
    own = os.getpid()
    # A child is listed under the thread that started it, so every thread is asked.
    tasks = Path(f"/proc/{own}/task").iterdir()
    children = " ".join(
        (task / "children").read_text(encoding="utf-8") for task in tasks if (task / "children").exists()
    )
    return [own, *map(int, children.split())]


def cpu_seconds() -> float:
    """Return the CPU time that this process and its children have used."""
    # Split behind the last bracket: the command's name may hold blanks. utime and stime are then fields 11 and 12.
    fields = [Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split() for pid in family()]
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS


def memory_mb() -> float:
    """Return the proportional set size of this process and its children, in MB."""
    # Proportional, because it counts pages that the processes share once.
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8") for pid in family()]
    return sum(int(line.split()[1]) for text in rollups for line in text.splitlines() if line.startswith("Pss:")) / 1024


def images_of(batch: Any) -> int:
    """Count the images of a batch, ours or a peer's."""
    return len(batch.image if hasattr(batch, "image") else batch[0])


def main() -> None:
    """Run one epoch to warm up and one that is timed, and print the figures as JSON."""
    parser = new_parser("bench.loader_worker", __doc__)
    parser.add_argument("--kind", required=True, help="dali, dali-prepared, opencv, opencv-reduced or pil")
    parser.add_argument("--folder", type=Path, required=True, help="folder of JPEG files and PNG masks")
    for name, default in (("--size", 224), ("--samples", 128), ("--batch-size", 16), ("--workers", 2)):
        parser.add_argument(name, type=positive(int), default=default, help=f"default {default}")
    options = parser.parse_args()
    # The loaders get `--workers` threads or processes, and torch none beyond.
    torch.set_num_threads(1)
    loader = build(options)
    # The first epoch starts the workers and fills the page cache. Reading the memory costs time, so only this one does.
    peak = max(memory_mb() for _ in loader)
    cpu, start = cpu_seconds(), time.perf_counter()
    count = sum(images_of(batch) for batch in loader)
    seconds, busy = time.perf_counter() - start, cpu_seconds() - cpu
    figures = {"images_per_second": count / seconds, "cpu_ms_per_image": 1000 * busy / count, "peak_mb": peak}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
