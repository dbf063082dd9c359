"""Files and folders that are there whole or not at all, and where those that can be made again are kept."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

CACHE = Path("build/data")  # generated and converted files, answers of the scan


def write_whole(path: Path, text: str) -> None:
    """Writes a file that others see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, renamed to `folder` at the end, so that a folder with the right name is whole.

    Where another process was faster its folder stays: what is cached depends on nothing but the name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "new"  # unlike `scratch`, readable for other users
        fresh.mkdir()
        yield fresh
        try:
            fresh.replace(folder)
        except OSError:
            if not folder.is_dir():
                raise
