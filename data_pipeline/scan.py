"""Find every unreadable sample before training starts, and remember the results.

The scan decodes with DALI, as training does, so that the two agree about what is readable.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import nvidia.dali as dali
import nvidia.dali.fn as fn
import nvidia.dali.types as types
from numpy.typing import NDArray
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import pipeline_def
from PIL import Image
from rich.progress import track

from data_pipeline.dicom import picture_file
from data_pipeline.files import CACHE, code_version, write_whole
from data_pipeline.graph import as_input
from data_pipeline.image_file import decodable
from data_pipeline.image_header import Header, ImageError, read_header
from data_pipeline.records import DataError, Dataset, Record, Split, place_of
from data_pipeline.sources import open_source

Numbers = NDArray[np.int64]
Files = tuple[bytes, bytes]  # an image and its mask
BATCH, THREADS = 16, 2  # of DALI
# What decides the pixels of a file.
READERS = (
    *("image_header.py", "image_file.py", "orientation.py", "tiff.py"),
    *("dicom/attributes.py", "dicom/file.py", "dicom/picture.py"),
)
VERSION = code_version(__file__, *READERS)
SHOWN = 10  # bad samples that an error lists


class Finding(NamedTuple):
    """Hold what the scan finds of a record.

    reason: why it cannot be used, or "" for a good one.
    smallest: share of the image that the smallest of its mask's classes covers, 0 without any.
    """

    reason: str
    smallest: float = 0.0


@dataclass(frozen=True)
class BadSample:
    """Describe a record that cannot be trained on.

    record: the record.
    reason: what is wrong with it, in a few words.
    """

    record: Record
    reason: str


def open_usable(
    source: str,
    split: Split,
    *,
    skip_bad: bool,
    report: Callable[[str], object],
    samples: int | None = None,
    seed: int = 0,
    cache: Path = CACHE,
) -> Dataset:
    """Open a data source and scan it.

    Args:
        source: as for `open_source`.
        split: as for `open_source`.
        skip_bad: whether to leave out samples that cannot be used.
        report: called with each line on what was left out or looks wrong.
        samples: as for `open_source`, counted before those that the scan finds bad are left out.
        seed: as for `open_source`.
        cache: as for `open_source`. The results of the scan are kept there too.

    Raises:
        DataError: the source cannot be opened or, without `skip_bad`, holds samples that cannot be used.
    """
    dataset = open_source(source, split, samples=samples, seed=seed, cache=cache, skip_bad=skip_bad)
    for note in dataset.notes:
        report(note)
    usable, bad = drop_bad(dataset, skip_bad=skip_bad, cache=cache)
    if bad:
        report(
            f"left out {len(bad)} of {len(dataset.records)} samples ({split}) that cannot be used, "
            f"first {bad[0].record.image}: {bad[0].reason}"
        )
    return usable


def open_splits(
    source: str,
    samples: Mapping[Split, int | None],
    *,
    skip_bad: bool,
    report: Callable[[str], object],
    seed: int = 0,
    cache: Path = CACHE,
) -> dict[Split, Dataset]:
    """Open several splits of a data source, scan them, and check that they belong together.

    Args:
        source: as for `open_source`.
        samples: at most this many records, or None for all, by the split to open.
        skip_bad: as for `open_usable`, and so are the others.
        report: called with each line on what was left out or looks wrong.
        seed: as for `open_source`.
        cache: as for `open_source`.

    Raises:
        DataError: a split cannot be opened or used, or differs from the first in its source, seed, classes or labels.
    """
    opening: dict[str, Any] = {"skip_bad": skip_bad, "report": report, "seed": seed, "cache": cache}
    splits = {split: open_usable(source, split, samples=count, **opening) for split, count in samples.items()}
    _require_alike(source, splits)
    return splits


def _require_alike(source: str, splits: dict[Split, Dataset]) -> None:
    """Raise DataError where splits do not belong together, as those that two commands have prepared."""
    # Other seeds would put an image into both, and the index of an output has no other meaning than its name.
    (first, wanted), *others = ((split, _common_facts(dataset)) for split, dataset in splits.items())
    for split, found in others:
        for what, value in wanted.items():
            # What was prepared by an older version does not tell the names of its source.
            if value and found[what] and value != found[what]:
                raise DataError(
                    f"{source}: all splits must have the same {what}, {first} has {value} and {split} has "
                    f"{found[what]}; prepare both with the same options"
                )


def _common_facts(dataset: Dataset) -> dict[str, str]:
    """Return what all splits of a source have in common, as a message shows it."""
    return {
        "source": place_of(dataset.name),
        "seed of the split": str(dataset.split_seed),
        "names in the source": ", ".join(f"{group} {names}" for group, names in dataset.divided.items()),
        "mask classes": ", ".join(dataset.seg_classes),
        "labels": ", ".join(dataset.labels),
    }


def drop_bad(dataset: Dataset, *, skip_bad: bool, cache: Path = CACHE) -> tuple[Dataset, tuple[BadSample, ...]]:
    """Return the data set without its unreadable samples and with the sizes in its masks, and those samples.

    Raises DataError without `skip_bad` if there is any such sample, and with it if there are no others.
    """
    # Prepared data were decoded when they were prepared, and their hashes were verified when they were opened.
    if dataset.prepared is not None:
        return dataset, ()
    findings = measure_samples(dataset, cache=cache)
    bad = _bad(dataset, findings)
    if bad and not skip_bad:
        shown = "".join(f"\n  {sample.record.image}: {sample.reason}" for sample in bad[:SHOWN])
        more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise DataError(
            f"{len(bad)} of {len(dataset.records)} samples cannot be used (--skip-bad leaves them out):{shown}{more}"
        )
    found = zip(dataset.records, findings, strict=True)
    good = tuple(replace(record, smallest=finding.smallest) for record, finding in found if not finding.reason)
    if not good:
        first = f"{bad[0].record.image}: {bad[0].reason}"
        raise DataError(f"none of the {len(bad)} samples of {dataset.name} can be used, first {first}")
    return replace(dataset, records=good), bad


def _bad(dataset: Dataset, findings: list[Finding]) -> tuple[BadSample, ...]:
    found = zip(dataset.records, findings, strict=True)
    return tuple(BadSample(record, finding.reason) for record, finding in found if finding.reason)


def scan_samples(dataset: Dataset, *, cache: Path) -> tuple[BadSample, ...]:
    """Find the samples that cannot be decoded, whose sizes differ or whose mask holds an unknown class.

    Args:
        dataset: the samples to check.
        cache: folder of earlier results.
    """
    return _bad(dataset, measure_samples(dataset, cache=cache))


def measure_samples(dataset: Dataset, *, cache: Path) -> list[Finding]:
    """Return what the scan finds of each sample. The arguments are those of `scan_samples`."""
    store = cache / "scan.json"
    known = _read_findings(store)
    classes = len(dataset.seg_classes)
    # Hashing is much cheaper than decoding, and only new or changed files are decoded again.
    keys = [_key(record, classes) for record in track(dataset.records, "hashing files", transient=True)]
    fresh = [(key, record) for key, record in zip(keys, dataset.records, strict=True) if key not in known]
    for start in track(range(0, len(fresh), BATCH), "checking files", disable=not fresh, transient=True):
        chunk = fresh[start : start + BATCH]
        findings = examine([record for _, record in chunk], classes, THREADS)
        known.update({key: finding for (key, _), finding in zip(chunk, findings, strict=True)})
    if fresh:
        # Whole, because a scan that is killed must not leave a file that later scans cannot read.
        write_whole(store, json.dumps(known))
    return [known[key] for key in keys]


def _read_findings(store: Path) -> dict[str, Finding]:
    """Read earlier results, or none where the file was changed by something else."""
    # A cache: what cannot be read is found again.
    with suppress(OSError, ValueError, TypeError, AttributeError):
        stored = json.loads(store.read_text(encoding="utf-8")).items()
        return {key: Finding(str(reason), float(smallest)) for key, (reason, smallest) in stored}
    return {}


def _key(record: Record, classes: int) -> str:
    """Hash both files of a record, the number of classes and the code, on which the result depends too."""
    # A missing file hashes as an empty one. `examine` tells them apart.
    parts = [path.read_bytes() if path.is_file() else b"" for path in (record.image, record.mask)]
    return hashlib.sha256(
        f"{VERSION} {dali.__version__} {classes} ".encode() + b"|".join(hashlib.sha256(part).digest() for part in parts)
    ).hexdigest()


def examine(records: list[Record], classes: int, threads: int) -> list[Finding]:
    """Return what is found of each record, by as many threads of DALI."""
    opened = [_open(record) for record in records]
    readable = [files for files in opened if not isinstance(files, str)]
    # One bad file makes DALI fail on its whole batch without saying which it was. Then each record is tried alone.
    try:
        decoded = iter(_decoded_findings(readable, classes, threads) if readable else [])
    except RuntimeError:
        decoded = iter([_examine_alone(files, classes, threads) for files in readable])
    return [Finding(files) if isinstance(files, str) else next(decoded) for files in opened]


def _examine_alone(files: Files, classes: int, threads: int) -> Finding:
    try:
        return _decoded_findings([files], classes, threads)[0]
    except RuntimeError:
        return Finding("the image or its mask is damaged or of an unsupported kind: it could not be decoded")


def _open(record: Record) -> Files | str:
    """Return a record's image and mask as DALI decodes them, or the reason why one cannot be used.

    DALI never meets an empty file, a decompression bomb or a file in doubt.
    """
    files = []
    for kind, path in (("image", record.image), ("mask", record.mask)):
        if not path.is_file():
            return f"the {kind} {path} is missing"
        try:
            data = picture_file(path.read_bytes()) if kind == "image" else path.read_bytes()
            # The sources convert masks to this kind. What they could not read must not be taken for one.
            if kind == "mask" and not _is_indices(read_header(data)):
                return "mask: not a grey PNG file of 8 bits, as masks of class indices are"
            files.append(decodable(data))
        except ImageError as error:
            return f"{kind}: {error}"
    return files[0], files[1]


def _is_indices(header: Header) -> bool:
    return header.kind == "PNG" and header.depth == 8 and header.grey


def _decoded_findings(files: list[Files], classes: int, threads: int) -> list[Finding]:
    """Decode images with their masks in one batch and check each, or raise RuntimeError if any cannot be decoded."""
    # A new pipeline each time, because one that has failed stays broken.
    pipeline = _scan_pipeline(batch_size=len(files), num_threads=threads, device_id=None, prefetch_queue_depth=1)
    pipeline.build()
    images, masks = ([as_input(file) for file in column] for column in zip(*files, strict=True))
    outputs = pipeline.run(image=images, mask=masks)
    shapes, masks = ([np.asarray(value) for value in output] for output in outputs)
    return [_finding(shape, mask, classes) for shape, mask in zip(shapes, masks, strict=True)]


def _finding(shape: Numbers, mask: NDArray[np.uint8], classes: int) -> Finding:
    """Compare an image's shape with its mask (H, W, 1), and measure the mask's classes."""
    if tuple(shape[:2]) != mask.shape[:2]:
        return Finding(f"the image is {shape[1]} x {shape[0]}, its mask {mask.shape[1]} x {mask.shape[0]}")
    # Pillow counts bytes in place. NumPy would first make each pixel 8 bytes wide.
    counts = np.array(Image.fromarray(mask[..., 0]).histogram())
    present = np.flatnonzero(counts)
    if present[-1] >= classes:
        return Finding(f"the mask holds class {present[-1]}, the data set has classes 0 to {classes - 1}")
    shown = counts[present[present > 0]]
    return Finding("", float(shown.min() / mask.size) if len(shown) else 0.0)


@pipeline_def  # type: ignore[untyped-decorator]
def _scan_pipeline() -> tuple[DataNode, DataNode]:
    """Decode an image and a mask to the shape of the one and the pixels of the other."""
    image, mask = (fn.external_source(name=name, dtype=types.UINT8, ndim=1) for name in ("image", "mask"))
    pixels = fn.decoders.image(mask, output_type=types.GRAY)
    # The pixels of the image are not returned: their shape shows that they could be decoded.
    return fn.decoders.image(image, output_type=types.RGB).shape(), pixels
