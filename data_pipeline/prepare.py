"""Decode and shrink a data set once, so that training on it only warps and normalises."""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import nvidia.dali as dali
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import pipeline_def
from rich.progress import track

from data_pipeline.command_line import LARGEST_SIDE, MOST_THREADS, Output, new_parser, positive, run_command, seed
from data_pipeline.dicom import picture_file
from data_pipeline.files import code_version, locked
from data_pipeline.graph import as_input, decode
from data_pipeline.image_file import decodable
from data_pipeline.image_header import ImageError, read_header
from data_pipeline.records import PARTS, DataError, Dataset, Record
from data_pipeline.scan import READERS, open_usable
from data_pipeline.sources import SOURCES
from data_pipeline.sources.prepared import MANIFEST, MASK_SCALE, PreparedPixels, create_pixels, write_manifest
from data_pipeline.spec import Preprocessing

JOURNAL = "journal.jsonl"  # one line for each finished sample, so that an interrupted run can be continued
BATCH = 16
# What decides the pixels that are kept: the readers, the graph and what runs it.
VERSION = f"{code_version(__file__, 'graph/__init__.py', 'spec.py', *READERS)} {dali.__version__}"
EXAMPLES = """examples:
  python -m data_pipeline.prepare --data synthetic:skin --size 128 --output build/prepared
  python -m data_pipeline.prepare --data folder:my_data --size 224 --output build/prepared --skip-bad
  python -m data_pipeline.prepare --data retouch:DIR --size 512 --output build/prepared --split train validation test
  python -m model.train --data prepared:build/prepared --preset tiny --output build/mine   (train on the first of these)
"""


def prepare(dataset: Dataset, size: int, folder: Path, threads: int = 2) -> int:
    """Write a data set's decoded pixels for a network's input size.

    Samples whose files and pixels still have the hashes of an earlier run are kept.

    Args:
        dataset: the samples.
        size: side of the network's input in pixels.
        folder: where to write.
        threads: of DALI.

    Returns:
        How many samples had to be decoded.

    Raises:
        DataError: an image has more than 8 bits a channel, or another process prepares the same folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # Two would write their pixels into one file.
        with locked(folder):
            return _prepare(dataset, size, folder, threads)
    except BlockingIOError:
        raise DataError(f"{folder} is being prepared by another process: wait for it, or give another output") from None


def _prepare(dataset: Dataset, size: int, folder: Path, threads: int) -> int:
    # What is there is finished no longer, also where this run is interrupted.
    (folder / MANIFEST).unlink(missing_ok=True)
    pixels = create_pixels(folder, len(dataset.records), size)
    done = _read_journal(folder / JOURNAL, pixels)
    hashes = [_file_hash(record) for record in track(dataset.records, "hashing files")]
    missing = [index for index, file_hash in enumerate(hashes) if done.get(index) != file_hash]
    with (folder / JOURNAL).open("a", encoding="utf-8") as journal:
        for indices in track(list(_batches(missing)), f"preparing {len(missing)} samples", disable=not missing):
            _decode(dataset, indices, size, pixels, threads)
            for index in indices:
                line = {"index": index, "source": hashes[index], "pixels": pixels.digest(index)}
                journal.write(json.dumps(line) + "\n")
            # At once, so that a killed run loses one batch at most.
            journal.flush()
    # Last, because a folder with a manifest counts as finished.
    write_manifest(folder, dataset, size, hashes, [pixels.digest(i) for i in range(len(hashes))])
    return len(missing)


def _read_journal(path: Path, pixels: PreparedPixels) -> dict[int, str]:
    """Return the hash of the files by index, of those samples whose pixels are still as they were written."""
    if not path.is_file():
        return {}
    latest: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        # A run that was killed or met a full disk may have left half a line.
        with suppress(json.JSONDecodeError, KeyError, TypeError):
            entry = json.loads(line)
            latest[entry["index"]] = {name: entry[name] for name in ("source", "pixels")}
    # The hash of the pixels notices arrays that were damaged or created again after the journal was written.
    return {
        index: entry["source"]
        for index, entry in latest.items()
        if index < len(pixels.images) and pixels.digest(index) == entry["pixels"]
    }


def _file_hash(record: Record) -> str:
    # With the code, so that pixels of another version's reading are not kept.
    return hashlib.sha256(VERSION.encode() + record.image.read_bytes() + record.mask.read_bytes()).hexdigest()


def _batches(indices: list[int]) -> Iterator[list[int]]:
    return (indices[start : start + BATCH] for start in range(0, len(indices), BATCH))


def _decode(dataset: Dataset, indices: list[int], size: int, pixels: PreparedPixels, threads: int) -> None:
    """Decode a batch of samples into `pixels`."""
    files = [_open(dataset.records[index]) for index in indices]
    pipeline = _prepare_pipeline(
        size, batch_size=len(files), num_threads=threads, device_id=None, prefetch_queue_depth=1
    )
    pipeline.build()
    images, masks = pipeline.run(
        image=[as_input(image) for image, _ in files], mask=[as_input(mask) for _, mask in files]
    )
    for row, index in enumerate(indices):
        pixels.images[index], pixels.masks[index] = np.asarray(images[row]), np.asarray(masks[row])


def _open(record: Record) -> tuple[bytes, bytes]:
    """Return a record's image and mask as DALI decodes them.

    Raises DataError for an image of more than 8 bits a channel, because prepared pixels are bytes.
    """
    try:
        data = picture_file(record.image.read_bytes())
        # First, because decoding to bytes would drop the low bits without a word.
        if read_header(data).depth > 8:
            raise DataError(
                f"{record.image} has more than 8 bits a channel, prepared data keep 8: train on the files themselves"
            )
        return decodable(data), decodable(record.mask.read_bytes())
    except ImageError as error:
        # The scan has read both: they have changed since.
        raise DataError(f"{record.image} or its mask: {error}") from None


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def _prepare_pipeline(size: int) -> tuple[DataNode, DataNode]:
    """Decode an image to bytes as training does, and resize its mask by nearest neighbour."""
    image_file, mask_file = (fn.external_source(name=name, dtype=types.UINT8, ndim=1) for name in ("image", "mask"))
    # Only the size matters: the pixels are stored before normalisation.
    image = decode(image_file, Preprocessing(image_size=size), "cpu")
    mask = fn.decoders.image(mask_file, output_type=types.GRAY)
    side = MASK_SCALE * size
    return fn.cast(image, dtype=types.UINT8), fn.resize(mask, size=(side, side), interp_type=types.INTERP_NN)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or exit with code 2 and one line for a misuse."""
    parser = new_parser("data_pipeline.prepare", __doc__, EXAMPLES)
    parser.add_argument("--data", required=True, help=SOURCES)
    side, threads = positive(int, most=LARGEST_SIDE), positive(int, most=MOST_THREADS)
    parser.add_argument("--size", type=side, required=True, help="side of the network's input in pixels")
    parser.add_argument("--output", type=Path, required=True, help="folder to train on with --data prepared:OUTPUT")
    parser.add_argument(
        "--split",
        nargs="+",
        choices=PARTS,
        default=["train", "validation"],
        help="one or more (default: train validation)",
    )
    parser.add_argument("--samples", type=positive(int), help="at most this many of each split (default: all)")
    parser.add_argument("--seed", type=seed, default=0, help="of the split, or of generated data (default: 0)")
    parser.add_argument("--threads", type=threads, default=2, help="threads that decode (default: 2)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out the samples that cannot be used")
    return parser.parse_args(arguments)


def prepare_splits(options: argparse.Namespace) -> None:
    """Prepare each split that the options name, in a separate folder."""
    output = Output()
    for split in options.split:
        chosen = {"samples": options.samples, "seed": options.seed, "skip_bad": options.skip_bad}
        dataset = open_usable(options.data, split, report=output.print, **chosen)
        decoded = prepare(dataset, options.size, options.output / split, options.threads)
        output.print(f"{options.output / split}: {len(dataset.records)} samples, {decoded} decoded now")


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    return run_command(
        lambda: prepare_splits(options),
        DataError,
        OSError,
        RuntimeError,
        interrupted="interrupted: the same command continues after the last finished batch",
    )


if __name__ == "__main__":
    sys.exit(main())
