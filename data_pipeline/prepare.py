"""`python -m data_pipeline.prepare`: decode and shrink a data set once, so that training only warps and normalises."""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import pipeline_def
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from rich.progress import track

from data_pipeline.graph.preprocess import decode
from data_pipeline.graph.training import path_bytes
from data_pipeline.records import DataError, Dataset, Record, Split
from data_pipeline.scan import open_usable
from data_pipeline.sources import SOURCES
from data_pipeline.sources.prepared import MASK_SCALE, Pixels, create_pixels, write_manifest
from data_pipeline.spec import Preprocessing

JOURNAL = "journal.jsonl"  # one line a finished sample, so that an interrupted run goes on where it stopped
BATCH = 16


def prepare(dataset: Dataset, size: int, folder: Path, threads: int = 2) -> int:
    """Writes `dataset` to `folder` for a network of `size` px; returns how many samples had to be decoded.

    Samples whose files and pixels still have the hashes of an earlier run are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pixels = create_pixels(folder, len(dataset.records), size)
    done = _read_journal(folder / JOURNAL, pixels)
    sources = [_source_hash(record) for record in track(dataset.records, "hashing files")]
    missing = [index for index, source in enumerate(sources) if done.get(index) != source]
    with (folder / JOURNAL).open("a") as journal:
        for indices in track(list(_batches(missing)), f"preparing {len(missing)} samples", disable=not missing):
            _decode(dataset, indices, size, pixels, threads)
            for index in indices:
                line = {"index": index, "source": sources[index], "pixels": pixels.digest(index)}
                journal.write(json.dumps(line) + "\n")
            journal.flush()
    write_manifest(folder, dataset, size, sources, [pixels.digest(i) for i in range(len(sources))])
    return len(missing)


def _read_journal(path: Path, pixels: Pixels) -> dict[int, str]:
    """Hash of the source by index, of the samples whose pixels are still what was written."""
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    latest = {line["index"]: line for line in lines if line["index"] < len(pixels.images)}
    return {index: line["source"] for index, line in latest.items() if pixels.digest(index) == line["pixels"]}


def _source_hash(record: Record) -> str:
    return hashlib.sha256(record.image.read_bytes() + record.mask.read_bytes()).hexdigest()


def _batches(indices: list[int]) -> Iterator[list[int]]:
    return (indices[start : start + BATCH] for start in range(0, len(indices), BATCH))


def _decode(dataset: Dataset, indices: list[int], size: int, pixels: Pixels, threads: int) -> None:
    records = [dataset.records[index] for index in indices]
    for record in records:
        _refuse_deep(record.image)
    pipeline = _pipeline(size, batch_size=len(records), num_threads=threads, device_id=None, prefetch_queue_depth=1)
    pipeline.build()
    images, masks = pipeline.run(
        image=[path_bytes(record.image) for record in records], mask=[path_bytes(record.mask) for record in records]
    )
    for row, index in enumerate(indices):
        pixels.images[index], pixels.masks[index] = np.asarray(images[row]), np.asarray(masks[row])


def _refuse_deep(image: Path) -> None:
    """Prepared pixels are bytes: a file of more than 8 bits a channel must not be crushed silently."""
    with Image.open(image) as opened:
        tag = opened.tag_v2.get(258, 8) if isinstance(opened, TiffImageFile) else 8
        deep = opened.mode.startswith(("I", "F")) or max(np.atleast_1d(tag)) > 8 or _png_depth(image) > 8
    if deep:
        raise DataError(f"{image} has more than 8 bits a channel, prepared data keep 8: train on the files themselves")


def _png_depth(path: Path) -> int:
    """Bits a channel from a PNG header (PIL shows 16-bit RGB as 8), 0 for other files."""
    with path.open("rb") as file:
        header = file.read(25)
    return header[24] if header[:4] == b"\x89PNG" else 0


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def _pipeline(size: int) -> tuple[DataNode, DataNode]:
    """The shared graph's image, rounded to bytes, and the mask by nearest neighbour."""
    image_path, mask_path = (fn.external_source(name=name, dtype=types.UINT8, ndim=1) for name in ("image", "mask"))
    spec = Preprocessing(size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    image = fn.cast(decode(fn.io.file.read(image_path), spec, "cpu"), dtype=types.UINT8)
    mask = fn.decoders.image(fn.io.file.read(mask_path), output_type=types.GRAY)
    side = MASK_SCALE * size
    return image, fn.resize(mask, size=(side, side), interp_type=types.INTERP_NN)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_pipeline.prepare", description=__doc__)
    parser.add_argument("--data", required=True, help=SOURCES)
    parser.add_argument("--size", type=int, required=True, help="the network's input side in pixels")
    parser.add_argument("--output", type=Path, required=True, help="train on it with --data prepared:OUTPUT")
    parser.add_argument("--split", nargs="+", choices=tuple(get_args(Split)), default=["train", "validation"])
    parser.add_argument("--samples", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip-bad", action="store_true", help="prepare without the samples that cannot be used")
    options = parser.parse_args(arguments)
    try:
        for split in options.split:
            chosen = {"samples": options.samples, "seed": options.seed, "skip_bad": options.skip_bad}
            dataset = open_usable(options.data, split, report=print, **chosen)
            decoded = prepare(dataset, options.size, options.output / split, options.threads)
            print(f"{options.output / split}: {len(dataset.records)} samples, {decoded} decoded now")
    except (DataError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
