"""Turn command-line arguments into images to read and overlays to write."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})


@dataclass(frozen=True)
class Task:
    """Name one image file and its overlay in the output folder."""

    source: Path
    overlay: str


def plan(arguments: Iterable[Path]) -> list[Task]:
    """Make a task for each file named and for each image below each folder named, in order, each file once.

    An overlay is named after its image. Where two images share a stem, the later one gets a number.
    """
    taken: set[str] = set()
    return [Task(source, _free_name(source.stem, taken)) for source in _unique(_expanded(arguments))]


def _expanded(arguments: Iterable[Path]) -> Iterator[Path]:
    for argument in arguments:
        if argument.is_dir():
            # Sorted, so that --resume gives every image the overlay's name of the earlier run.
            yield from sorted(file for file in argument.rglob("*") if file.suffix.lower() in SUFFIXES)
        else:
            # A file that was named is sent with any suffix: the server decides what it is.
            yield argument


def _unique(files: Iterable[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for file in files:
        # Resolved, since one file may be named itself and lie in a folder that is named.
        if file.resolve() not in seen:
            seen.add(file.resolve())
            yield file


def _free_name(stem: str, taken: set[str]) -> str:
    # Compared without case, since some file systems do not tell A.png from a.png.
    name, number = stem, 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.casefold())
    return f"{name}.overlay.png"
