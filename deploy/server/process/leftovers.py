"""Name what a server makes outside its repository, and remove what servers that are gone have left there."""

import os
import secrets
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir

from deploy.server.process.guardian import ENVIRONMENT_PREFIX, ENVIRONMENTS, SHARED_MEMORY, remove

_MARK = "resformer-server-"


def new_name() -> str:
    """Return a new name for one start of a server, which tells the process that starts it.

    It is the name of the server's folder, and the names of its shared-memory regions begin with it.
    """
    # The random part keeps apart the servers of one process, and cannot be guessed and taken by another user.
    return f"{_MARK}{os.getpid()}-{secrets.token_hex(8)}"


def folders() -> list[Path]:
    """List the folders of servers on this machine, of any user and also of those that are gone."""
    return list(Path(gettempdir()).glob(f"{_MARK}*"))


def environments() -> set[str]:
    """Return the names of the folders that the Python backends of this machine's servers have made."""
    return {path.name for path in Path(ENVIRONMENTS).glob(f"{ENVIRONMENT_PREFIX}*")}


def note_environments(folder: Path, before: set[str]) -> None:
    """Leave a note in a server's folder of the environments that were made since, for whoever removes them.

    One of another server that starts at the same moment is noted as well. What is not empty is never removed.
    """
    for name in environments() - before:
        (folder / name).touch()


def remove_leftovers() -> None:
    """Remove the folders and regions of every server of this user whose starting process is gone."""
    for place in (gettempdir(), SHARED_MEMORY):
        for left in Path(place).glob(f"{_MARK}*"):
            owner = left.name.removeprefix(_MARK).partition("-")[0]
            # A process id that was given to another program only delays the removal.
            if owner.isdecimal() and not Path("/proc", owner).exists():
                _remove(left)


def _remove(left: Path) -> None:
    # Another server may remove it at the same moment.
    with suppress(OSError):
        # What another user named like this is no concern of ours, even where we could remove it.
        if left.lstat().st_uid != os.geteuid():
            return
        if left.is_dir() and not left.is_symlink():
            remove(left.name, str(left))
        else:
            left.unlink()
