"""Find the files to send, and name what is written for each."""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.dicom import is_dicom
from data_pipeline.fields import as_line
from data_pipeline.files import is_left_behind
from data_pipeline.volume_file import ending_of
from data_pipeline.volume_header import files_of

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".tif", ".tiff", ".dcm", ".dicom"})
DIRECTORY = "DICOMDIR"
SIGNATURE = 132  # bytes that tell a DICOM file from others
# Of an image's name in those of its results. File systems take 255, and a number, an ending and a temporary name add
# some.
LONGEST_STEM_BYTES = 190
# What a file can be that is none, and whose reading might never end.
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class Task:
    """Name one file, and what its results in the output folder begin with.

    source: the file.
    name: of its results, before their endings.
    """

    source: Path
    name: str

    @property
    def stamp(self) -> dict[str, float]:
        """Return the file's size and the time of its last change, by which a later run knows it again.

        Those of the files of pixels that a volume's header names count as well.

        Raises:
            OSError: the file is not there.
            ImageError: one that its header names is not.
        """
        states = [file.stat() for file in files_of(self.source)]
        return {"bytes": sum(one.st_size for one in states), "modified": max(one.st_mtime for one in states)}

    @property
    def overlay(self) -> str:
        """Return the name of the overlay."""
        return f"{self.name}.overlay.png"

    @property
    def mask(self) -> str:
        """Return the name of the mask."""
        return f"{self.name}.mask.png"

    @property
    def raw_mask(self) -> str:
        """Return the name of the mask before components are left out."""
        return f"{self.name}.raw-mask.png"


def find_files(arguments: Iterable[Path], output: Path) -> list[Path]:
    """List each file named and each image below each folder named, in order, each file once.

    Args:
        arguments: files and folders.
        output: the folder of results. Its files are no images to send, also where it lies in a folder that is named.
    """
    return list(_unique(_expanded(arguments, os.path.realpath(output))))


def plan(files: Sequence[Path], earlier: Mapping[str, str], output: Path) -> list[Task]:
    """Make a task for each file.

    Results are named after their image. Where two images share a stem, the later one gets a number, and so does one
    whose results could have the name of a file that is sent.

    Args:
        files: what is sent.
        earlier: the names of an earlier run's results by file, which a file keeps and no other gets.
        output: the folder for results.
    """
    # Of photo.mask.png, which is sent and lies where results go, "photo".
    folder = os.path.realpath(output)
    stems = [file.stem.casefold() for file in files if os.path.realpath(file.parent) == folder]
    begun = {stem[:place] for stem in stems for place, sign in enumerate(stem) if sign == "."}
    taken = {name.casefold() for name in earlier.values()} | begun
    return [Task(source, earlier.get(str(source)) or _free_name(_shortened(source.stem), taken)) for source in files]


def _expanded(arguments: Iterable[Path], output: str) -> Iterator[Path]:
    for named in arguments:
        # What lists the files of a medium stands for its folder.
        argument = named.parent if named.name.upper() == DIRECTORY and named.is_file() else named
        # os.path and not Path.is_dir, which raises where a name is too long.
        if os.path.isdir(argument):  # noqa: PTH112
            # Sorted, so that --resume gives every result the name of the earlier run.
            for file in sorted(argument.rglob("*")):
                left_behind = any(is_left_behind(name) for name in file.relative_to(argument).parts)
                if file.is_file() and not left_behind and not _lies_in(file, output) and _is_image(file):
                    yield file
        else:
            # A file that was named is sent with any suffix: the server decides what it is.
            yield argument


def _is_image(file: Path) -> bool:
    """Tell whether a file in a folder is meant: by its ending, or a DICOM file, which often has none."""
    if file.suffix.lower() in SUFFIXES or ending_of(file):
        return True
    try:
        with file.open("rb") as opened:
            # What lists the files of a medium is no image.
            return is_dicom(opened.read(SIGNATURE)) and file.name.upper() != DIRECTORY
    except OSError:
        return False


def _lies_in(file: Path, folder: str) -> bool:
    return os.path.realpath(file).startswith(os.path.join(folder, ""))  # noqa: PTH118 (a path ends without a slash)


def _unique(files: Iterable[Path]) -> Iterator[Path]:
    seen: set[str] = set()
    for file in files:
        # One file may be named itself and lie in a folder that is named. Path.resolve raises on a loop of links.
        if (real := os.path.realpath(file)) not in seen:
            seen.add(real)
            yield file


def _shortened(stem: str) -> str:
    # Counted in bytes, as file systems do. A character that the limit cuts in two is left out.
    return as_line(stem).encode()[:LONGEST_STEM_BYTES].decode(errors="ignore")


def _free_name(stem: str, taken: set[str]) -> str:
    # Compared without case, since some file systems do not tell A.png from a.png.
    name, number = stem, 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.casefold())
    return name


def read_regular(file: Path) -> bytes:
    """Read a file that is one.

    Raises OSError where it is missing, cannot be read, or is a pipe or the like, from which reading might never end.
    """
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for holds, name in KINDS if holds(mode)), "no file")
        raise OSError(f"{kind} and no image file")
    return file.read_bytes()
