"""Name and remove the shared memory between a server and its workers.

It stays behind in /dev/shm when one of them is killed.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

_FOLDER = Path("/dev/shm")
_MARK = "resformer_server_"


def new_prefix() -> str:
    """Return a new prefix for the names of one server's regions, which tells the process that started the server."""
    # The random part keeps apart the servers of one process.
    return f"{_MARK}{os.getpid()}_{secrets.token_hex(4)}_"


def remove_regions(prefix: str) -> None:
    """Remove the regions of one server, which must have ended."""
    for region in _FOLDER.glob(f"{prefix}*"):
        # The file may be another user's, or another server may remove it at the same moment.
        with suppress(OSError):
            region.unlink()


def remove_leftovers() -> None:
    """Remove the regions of every server whose starting process is gone."""
    owners = {region.name.removeprefix(_MARK).partition("_")[0] for region in _FOLDER.glob(f"{_MARK}*")}
    for owner in owners:
        # A process id that was given to another program only delays the removal.
        if owner.isdecimal() and not Path("/proc", owner).exists():
            remove_regions(f"{_MARK}{owner}_")
