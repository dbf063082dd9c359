"""Measures one data loader in a process of its own and prints the figures as JSON (see test_data_pipeline.py)."""

import argparse
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bench.loader_peers import PeerSamples
from data_pipeline import Dataset, Preprocessing, Record, TrainingLoader
from data_pipeline.sources.prepared import open_prepared

SPEC = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
TICKS = os.sysconf("SC_CLK_TCK")


def photographs(folder: Path, samples: int) -> Dataset:
    """`samples` records over the files of `folder`, which repeat."""
    images = sorted(folder.glob("*.jpg"))
    files = [images[index % len(images)] for index in range(samples)]
    records = tuple(Record(path, path.with_suffix(".png"), (0,)) for path in files)
    return Dataset("photographs", records, ("background", "lesion"), ("label",))


def build(options: argparse.Namespace) -> Iterable[Any]:
    spec = Preprocessing(options.size, **SPEC)
    if options.kind.startswith("dali"):
        prepared = options.kind == "dali-prepared"
        dataset = (
            open_prepared(options.folder, "train", None) if prepared else photographs(options.folder, options.samples)
        )
        chosen = {"augment": True, "shuffle": True, "seed": 0, "threads": options.workers}
        return TrainingLoader(dataset, spec, batch_size=options.batch_size, **chosen)
    samples = PeerSamples(photographs(options.folder, options.samples), spec, options.kind)
    return torch.utils.data.DataLoader(
        samples, options.batch_size, shuffle=True, num_workers=options.workers, persistent_workers=True
    )


def family() -> list[int]:
    """This process and its children."""
    own = os.getpid()
    tasks = Path(f"/proc/{own}/task").iterdir()
    children = " ".join((task / "children").read_text() for task in tasks if (task / "children").exists())
    return [own, *map(int, children.split())]


def cpu_seconds() -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in family()]
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS


def memory_mb() -> float:
    """Proportional set size, which counts pages that processes share once."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in family()]
    return sum(int(line.split()[1]) for text in rollups for line in text.splitlines() if line.startswith("Pss:")) / 1024


def images_of(batch: Any) -> int:
    return len(batch.image if hasattr(batch, "image") else batch[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    for name, default in (("--size", 224), ("--samples", 128), ("--batch-size", 16), ("--workers", 2)):
        parser.add_argument(name, type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loader = build(options)
    peak = max(memory_mb() for _ in loader)  # the warm-up epoch: starts workers, fills the page cache
    cpu, start = cpu_seconds(), time.perf_counter()
    count = sum(images_of(batch) for batch in loader)
    seconds, busy = time.perf_counter() - start, cpu_seconds() - cpu
    figures = {"images_per_second": count / seconds, "cpu_ms_per_image": 1000 * busy / count, "peak_mb": peak}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
