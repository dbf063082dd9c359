"""Write files and folders whole or not at all, for every package of this project.

Standard library only: the client imports it on machines that have neither torch nor DALI.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

CACHE = Path("build/data")  # generated and converted files, answers of the scan


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which takes the place of `path` when the block ends well.

    Other processes, and the next run after a crash, see the old file or the new one. The folder is made if it is
    missing. Raises OSError where it cannot be written, and leaves nothing behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        # Some writers (safetensors) leave files that only their user can read: the umask decides, not they.
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a text (UTF-8) or bytes to `path` as `whole_file` does."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill, which is renamed to `folder` when the block ends well.

    replace: take the place of an older folder. Without it an older folder stays, also one that another process made
        meanwhile: what is cached depends on nothing but its name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        # Folders of their own: `scratch` itself could not be read by other users.
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        yield fresh
        if replace and folder.exists():
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            if replace or not folder.is_dir():
                raise
