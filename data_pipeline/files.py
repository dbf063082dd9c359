"""Write files and folders whole or not at all, for every package of this project.

This module needs the standard library only, because the client imports it on machines without torch and DALI.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ENOLCK, ENOSYS, ENOTDIR, EOPNOTSUPP
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = Path(__file__).parent
# What names begin with of what systems leave among the files of people: hidden ones, Synology's, QNAP's, macOS's.
LEFT_BEHIND = (".", "@eaDir", "@Recycle", "@__thumb", "__MACOSX")
WITHOUT_LOCKS = (ENOSYS, ENOLCK, EOPNOTSUPP)
UNFINISHED = re.compile(r"\..*\.(?P<process>\d+)\.tmp(\.[a-z.]+)?", re.DOTALL)
CACHE = Path("build/data")  # generated and converted files, and the results of the scan


@contextmanager
def whole_file(path: Path, ending: str = "") -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` when the block succeeds.

    Other processes, and the next run after a crash, see either the old file or the new one. A missing parent folder is
    created. Where the file cannot be written, OSError is raised and nothing is left behind.

    Args:
        path: the file.
        ending: of the temporary path, for writers that choose the format by it, such as `.nii.gz`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because a rename is atomic only within one file system. The process id keeps two writers of
    # the same file apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{ending}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        # Some writers (safetensors) create files that only their owner can read. The umask decides, not the writer.
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def drop_unfinished(folder: Path) -> None:
    """Remove what `whole_file` was writing into a folder in processes that were killed."""
    for path in folder.glob(".*.tmp*"):
        found = UNFINISHED.fullmatch(path.name)
        if found and not Path("/proc", found["process"]).exists():
            path.unlink(missing_ok=True)


def write_whole(path: Path, data: str | bytes) -> None:
    """Write a text (as UTF-8) or bytes to `path` with `whole_file`. The error where this fails names `path`."""
    with whole_file(path) as temporary:
        try:
            temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        except OSError as error:
            # That of a full disk names no file.
            raise OSError(error.errno, error.strerror, str(path)) from None


def require_writable(folder: Path) -> None:
    """Raise OSError where a folder cannot be made or written to, before the work for it begins, and leave nothing."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():
        raise NotADirectoryError(ENOTDIR, "a folder is needed and this is a file", str(place))
    try:
        with TemporaryDirectory(dir=place):
            pass
    except OSError as error:
        # Its own message names the temporary folder.
        raise OSError(error.errno, error.strerror, str(place)) from None


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill, and rename it to `folder` when the block succeeds.

    Files inside need no `whole_file` of their own: they become visible together.

    Args:
        folder: the folder to create.
        replace: whether to replace an existing folder. Without it an existing folder stays, also one that another
            process created meanwhile, because the content of a cache folder depends only on its name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        # Not `scratch` itself: TemporaryDirectory makes it with mode 0700, so other users could not read it.
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        yield fresh
        if replace:
            replace_folder(fresh, folder, old)
            return
        try:
            fresh.rename(folder)
        except OSError:
            # A folder that another process finished first is as good as this one.
            if not folder.is_dir():
                raise


def replace_folder(fresh: Path, folder: Path, old: Path) -> None:
    """Rename `fresh` to `folder` after moving what is there to `old`, or leave it where it was and raise OSError."""
    # A folder that is not empty cannot be renamed over.
    with suppress(FileNotFoundError):
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        with suppress(FileNotFoundError):
            old.rename(folder)
        raise


def code_version(*modules: str) -> str:
    """Hash the code of modules, by their paths or their names in this package, so that caches keep it with their files.

    A number that is raised by hand would be forgotten.
    """
    digest = hashlib.sha256()
    for module in modules:
        digest.update((PACKAGE / module).read_bytes())
    return digest.hexdigest()[:16]


def is_left_behind(name: str) -> bool:
    """Tell whether a file or a folder is of those that systems leave among the files of people, by its name."""
    return name.startswith(LEFT_BEHIND) or name.lower() in ("thumbs.db", "desktop.ini")


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or make a copy of it where the file system has no hard links."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        # Where it is for another reason, this fails as well, and says why.
        shutil.copy2(source, target)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keep other processes that lock the same folder out until the block ends, and yield whether that holds.

    Some file systems of clusters have no locks. Users there give each run a folder of its own, and nothing that another
    run left may be removed, since a run on another machine may be writing it.

    Raises BlockingIOError at once where another process has locked it.
    """
    # On the folder itself and not on a file in it, which would be left behind. A lock ends with its process.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return False
    return True
