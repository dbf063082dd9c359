"""From command-line arguments to images to read and overlays to write."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})


@dataclass(frozen=True)
class Task:
    """One image file and the name of its overlay in the output folder."""

    source: Path
    overlay: str


def plan(arguments: Iterable[Path]) -> list[Task]:
    """A task for each file named, and for each image below each folder named, in order; each file once.

    Overlays are called after their image; where two images share a stem, the later gets a number.
    """
    taken: set[str] = set()
    return [Task(source, _free_name(source.stem, taken)) for source in _unique(_expanded(arguments))]


def _expanded(arguments: Iterable[Path]) -> Iterator[Path]:
    for argument in arguments:
        if argument.is_dir():
            yield from sorted(file for file in argument.rglob("*") if file.suffix.lower() in SUFFIXES)
        else:
            yield argument


def _unique(files: Iterable[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for file in files:
        if file.resolve() not in seen:
            seen.add(file.resolve())
            yield file


def _free_name(stem: str, taken: set[str]) -> str:
    # Compared without case: some file systems do so too.
    name, number = stem, 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.casefold())
    return f"{name}.overlay.png"
