"""Define what every data source returns: records of an image, its mask and its image-level labels."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from data_pipeline.fields import MOST_CLASSES, MOST_LABELS, require_names

Split = Literal["train", "validation", "test", "all"]
PARTS: tuple[Split, ...] = ("train", "validation", "test")  # those that share no sample
BACKGROUND = "background"


class DataError(Exception):
    """Report that the user's data cannot be used.

    The message says what is wrong and what to do, in one line or in one line a file.
    """


def number_classes(count: int) -> tuple[str, ...]:
    """Return the names of the background and of `count` classes of which only the number is known."""
    return (BACKGROUND, "foreground") if count == 1 else (BACKGROUND, *(f"class {i}" for i in range(1, count + 1)))


@dataclass(frozen=True)
class SourceVolume:
    """Describe the volume that a slice belongs to.

    name: name of the volume, unique in its data set.
    slice_mm3: volume in cubic millimetres that one whole slice covers.
    """

    name: str
    slice_mm3: float


@dataclass(frozen=True, kw_only=True)
class Record:
    """Describe one sample on disk.

    image: any image file that `image_file.decodable` takes.
    mask: 8-bit grey PNG file whose values are class indices.
    labels: 0 or 1 for each label of the data set.
    volume: the volume that a slice belongs to, None for a single image.
    smallest: share of the image that the smallest of its classes covers, 0 without any, None where the scan has not
        measured it.
    """

    image: Path
    mask: Path
    labels: tuple[int, ...]
    volume: SourceVolume | None = None
    smallest: float | None = None


def place_of(source: str) -> str:
    """Write a source with the whole path of its folder, so that two ways to write one are the same."""
    kind, _, folder = source.partition(":")
    return f"{kind}:{Path(folder).resolve()}" if folder else source


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Hold the records of one split and the names of their classes.

    Raises DataError where names of classes or labels are repeated or are not one line of text each.

    name: the source, as it was given to `--data`. That of prepared data is the source that was prepared.
    records: the samples.
    seg_classes: names of the mask's classes by index. The first one is the background.
    labels: names of the image-level labels.
    grey: whether the images carry no colour. Augmentation then changes tone and speckle instead.
    split_seed: seed that divided the source into its splits, or None where the source has splits of its own.
    divided: hash of the names that the seed divided, by group of those that are divided on their own. One name more or
        fewer gives other splits.
    prepared: folder with the records' decoded pixels in the order of `records` (see `data_pipeline.prepare`).
    notes: lines about what was left out or looks wrong, to be shown before the data are used.
    """

    name: str
    records: tuple[Record, ...]
    seg_classes: tuple[str, ...]
    labels: tuple[str, ...]
    grey: bool = False
    split_seed: int | None = None
    divided: Mapping[str, str] = field(default_factory=dict)
    prepared: Path | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            require_names(self.seg_classes, "seg_classes", 2, MOST_CLASSES)
            require_names(self.labels, "labels", 1, MOST_LABELS)
        except ValueError as error:
            raise DataError(f"{self.name}: {error}") from None

    def fingerprint(self) -> str:
        """Hash the names and labels of the records in their order, and what the classes and labels are called."""
        rows = [(record.image.name, record.labels) for record in self.records]
        return hashlib.sha256(repr((self.seg_classes, self.labels, rows)).encode()).hexdigest()[:16]

    def fit_classes(self, seg_classes: tuple[str, ...], labels: tuple[str, ...]) -> "Dataset":
        """Return the data set under the mask classes of a checkpoint, or raise DataError if they are others.

        Classes that a folder's masks number and do not name get the checkpoint's names. The checkpoint may know more of
        them than occur here.
        """
        numbered = self.seg_classes == number_classes(len(self.seg_classes) - 1)
        fits = numbered and len(self.seg_classes) <= len(seg_classes)
        dataset = replace(self, seg_classes=seg_classes) if fits else self
        dataset.check_classes(seg_classes, labels)
        return dataset

    def check_classes(self, seg_classes: tuple[str, ...], labels: tuple[str, ...]) -> None:
        """Raise DataError unless the classes and labels are those of a checkpoint."""
        # By name and order, because the index of an output has no other meaning.
        for what, has, needs in (("mask classes", self.seg_classes, seg_classes), ("labels", self.labels, labels)):
            if has != needs:
                raise DataError(f"the data's {what} must be the checkpoint's {', '.join(needs)}; got {', '.join(has)}")
