"""What every data source gives: records of one image, its mask and its image-level labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]
BACKGROUND = "background"


class DataError(Exception):
    """The user's data cannot be used; the message says what and what to do, in one line or one line a file."""


@dataclass(frozen=True)
class Volume:
    """What a slice was cut from.  slice_mm3: the volume that one whole slice covers."""

    name: str
    slice_mm3: float


@dataclass(frozen=True)
class Record:
    """One sample on disk.

    image: any file DALI decodes.  mask: 8-bit grey PNG whose values are class indices.  labels: 0 or 1 per label.
    volume: None for an image of its own.
    """

    image: Path
    mask: Path
    labels: tuple[int, ...]
    volume: Volume | None = None


@dataclass(frozen=True)
class Dataset:
    """Records of one split with the names of their classes; `seg_classes[0]` is the background.

    grey: the images carry no colour, so augmentation changes tone and speckle instead.
    prepared: folder with the records' decoded pixels (see `prepare`), in the order of `records`.
    """

    name: str
    records: tuple[Record, ...]
    seg_classes: tuple[str, ...]
    labels: tuple[str, ...]
    grey: bool = False
    prepared: Path | None = None

    def check_classes(self, seg_classes: tuple[str, ...], labels: tuple[str, ...]) -> None:
        """Raises DataError unless its classes are those of a checkpoint."""
        for what, has, needs in (("mask classes", self.seg_classes, seg_classes), ("labels", self.labels, labels)):
            if has != needs:
                raise DataError(f"the data's {what} must be the checkpoint's {', '.join(needs)}; got {', '.join(has)}")
