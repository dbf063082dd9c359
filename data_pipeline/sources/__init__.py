"""`open_source`: from the text a user gives with --data to a `Dataset`."""

from pathlib import Path

from data_pipeline.files import CACHE
from data_pipeline.records import DataError, Dataset, Split
from data_pipeline.sources.folder import open_folder
from data_pipeline.sources.isic2017 import open_isic2017
from data_pipeline.sources.prepared import open_prepared
from data_pipeline.sources.retouch import open_retouch
from data_pipeline.sources.synthetic.generate import generate_folder

SOURCES = "synthetic:skin, synthetic:oct, isic2017:DIR, retouch:DIR, folder:DIR or prepared:DIR"


def open_source(spec: str, split: Split, *, samples: int | None = None, seed: int = 0, cache: Path = CACHE) -> Dataset:
    """The records of one split of a data source.

    samples: at most this many; of a generated source exactly this many (default 1000 / 200 / 500 by split).
    seed: of generation or of the split.  cache: where generated and converted files are kept.
    Raises DataError with every problem found.
    """
    kind, _, argument = spec.partition(":")
    if kind == "synthetic" and argument in ("skin", "oct"):
        return generate_folder(argument, split, samples, seed, cache)
    if kind == "folder" and argument:
        return open_folder(Path(argument), split, samples, seed, cache)
    if kind == "isic2017" and argument:
        return open_isic2017(Path(argument), split, samples, cache)
    if kind == "retouch" and argument:
        return open_retouch(Path(argument), split, samples, seed, cache)
    if kind == "prepared" and argument:
        return open_prepared(Path(argument), split, samples)
    raise DataError(f"unknown data source {spec!r}: expected {SOURCES}")
