"""Open a data source by the text that a user passes with `--data`."""

from pathlib import Path

from data_pipeline.files import CACHE
from data_pipeline.records import DataError, Dataset, Split
from data_pipeline.sources.folder import open_folder
from data_pipeline.sources.isic2017 import open_isic2017
from data_pipeline.sources.prepared import open_prepared
from data_pipeline.sources.retouch import open_retouch
from data_pipeline.sources.synthetic import generate_folder

SOURCES = "synthetic:skin, synthetic:oct, isic2017:DIR, retouch:DIR, folder:DIR or prepared:DIR"


def open_source(
    source: str,
    split: Split,
    *,
    samples: int | None = None,
    seed: int = 0,
    cache: Path = CACHE,
    skip_bad: bool = False,
) -> Dataset:
    """Return the records of one split of a data source.

    Args:
        source: one of `SOURCES`.
        split: which split. "all" is for `folder:DIR` and `retouch:DIR`, which choose their own splits.
        samples: at most this many records. A generated source has exactly this many, by default 1000 for training,
            200 for validation and 500 for the test.
        seed: of generation, or of the split where the source has no split of its own.
        cache: folder of generated and converted files.
        skip_bad: whether to leave out what has a problem, and note how much that was.

    Raises:
        DataError: the source is unknown or has problems, which the message lists all at once.
    """
    kind, _, argument = source.partition(":")
    if split == "all" and kind not in ("folder", "retouch"):
        raise DataError(f"--split all is for folder:DIR and retouch:DIR, {source} has splits of its own")
    # The folder must be named: an empty path would be the current folder.
    if kind == "synthetic" and argument in ("skin", "oct"):
        return generate_folder(argument, split, samples, seed, cache)
    if kind == "folder" and argument:
        return open_folder(Path(argument), split, samples, seed, cache, skip_bad)
    if kind == "isic2017" and argument:
        return open_isic2017(Path(argument), split, samples, cache, skip_bad)
    if kind == "retouch" and argument:
        return open_retouch(Path(argument), split, samples, seed, cache, skip_bad)
    if kind == "prepared" and argument:
        return open_prepared(Path(argument), split, samples)
    raise DataError(f"unknown data source {source!r}: expected {SOURCES}")
