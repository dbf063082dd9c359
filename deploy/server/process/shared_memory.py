"""The shared memory between a server and its workers, which stays behind in /dev/shm when one of them is killed."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

_FOLDER = Path("/dev/shm")
_MARK = "resformer_server_"


def new_prefix() -> str:
    """What the names of one server's regions begin with; it tells which process started the server."""
    return f"{_MARK}{os.getpid()}_{secrets.token_hex(4)}_"


def remove_regions(prefix: str) -> None:
    """Remove the regions of one server; only after it has ended."""
    for region in _FOLDER.glob(f"{prefix}*"):
        # Another user's, or removed by another server at the same moment.
        with suppress(OSError):
            region.unlink()


def remove_leftovers() -> None:
    """Remove the regions of every server whose starting process is gone."""
    owners = {region.name.removeprefix(_MARK).partition("_")[0] for region in _FOLDER.glob(f"{_MARK}*")}
    for owner in owners:
        if owner.isdecimal() and not Path("/proc", owner).exists():
            remove_regions(f"{_MARK}{owner}_")
