"""Measure how much memory a server takes."""

from pathlib import Path

from deploy.server import Server
from deploy.server.process.workers import children_of


def resident_bytes(server: Server) -> int:
    """Return the resident memory of the server and its workers."""
    return resident(server.pid, *children_of(server.pid))


def resident(*processes: int) -> int:
    """Return the resident memory of processes in bytes."""
    status = [Path(f"/proc/{pid}/status").read_text(encoding="utf-8") for pid in processes]
    # The kernel's "kB" are 1024 bytes.
    return sum(1024 * int(text.partition("VmRSS:")[2].split()[0]) for text in status)
