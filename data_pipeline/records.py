"""What every data source gives: records of one image, its mask and its image-level labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "validation", "test"]
BACKGROUND = "background"


class DataError(Exception):
    """The user's data cannot be used; the message is one line (or one line a file) that says what and what to do."""


@dataclass(frozen=True)
class Record:
    """One sample on disk.

    image: any file DALI decodes.  mask: 8-bit grey PNG whose values are class indices.  labels: 0 or 1 per label.
    """

    image: Path
    mask: Path
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Dataset:
    """Records of one split with the names of their classes; `seg_classes[0]` is the background."""

    name: str
    records: tuple[Record, ...]
    seg_classes: tuple[str, ...]
    labels: tuple[str, ...]
