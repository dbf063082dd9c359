"""Find and end the server's worker processes."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_ZOMBIE = "Z"  # the state of a process whose exit was not collected yet


def children_of(server_pid: int) -> list[int]:
    """Return the process ids of the server's live workers.

    Raises OSError where this process lacks what it takes to look, here and below.
    """
    everyone = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal()]
    return [pid for pid in everyone if _is_live_child(pid, server_pid)]


def workers_of(server_pid: int, model: str, version: str | None = None) -> list[int]:
    """Return the process ids of the live workers that serve `model`, in one version or in any."""
    found = [(pid, _folder_of(pid)) for pid in children_of(server_pid)]
    return [pid for pid, folder in found if folder and folder.parent.name == model and version in (None, folder.name)]


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the processor time that processes have used, together."""
    ticks = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            # The times in user mode and in the system.
            ticks += sum(map(int, _state_of(pid)[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def kill_workers(server_pid: int, model: str) -> None:
    """Kill the model's workers."""
    for pid in workers_of(server_pid, model):
        # SIGKILL, since a worker that hangs would never unload by itself.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _state_of(pid: int) -> list[str]:
    """Return what Linux says of a process, from its state on."""
    # Before it comes the command's name, in brackets, which may hold anything.
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _is_live_child(pid: int, parent: int) -> bool:
    # A process may end between the listing and the reading.
    with suppress(FileNotFoundError, ProcessLookupError):
        state, its_parent = _state_of(pid)[:2]
        # A killed worker whose exit the server has not collected is still listed, as a zombie.
        return int(its_parent) == parent and state != _ZOMBIE
    return False


def _folder_of(pid: int) -> Path | None:
    """Return the folder of the version that a worker serves, REPOSITORY/MODEL/VERSION."""
    with suppress(FileNotFoundError, ProcessLookupError):
        # triton_python_backend_stub REPOSITORY/MODEL/VERSION/model.py ...
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return Path(os.fsdecode(arguments[1])).parent if len(arguments) > 1 else None
    return None
