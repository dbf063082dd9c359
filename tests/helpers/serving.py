"""Run `python -m deploy.serve` in a process of its own, and look at what it started and left."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from deploy.server.process.workers import children_of

FREE = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]


@dataclass(frozen=True, kw_only=True)
class Served:
    """Describe a server that runs: the process of the command, and host:port of what it listens on."""

    process: subprocess.Popen[str]
    grpc: str
    http: str
    metrics: str

    def processes(self) -> list[int]:
        """Return the ids of all that it started: the guardian, tritonserver and the workers."""
        found, level = [], [self.process.pid]
        while level := [child for pid in level for child in children_of(pid)]:
            found += level
        return found

    @property
    def tritonserver(self) -> int:
        """Return the id of the guardian's only child."""
        (guardian,) = children_of(self.process.pid)
        (server,) = children_of(guardian)
        return server

    def files(self) -> list[Path]:
        """Return the folders and shared-memory regions that it has."""
        name = f"resformer-server-{self.process.pid}-*"
        return [*Path("/dev/shm").glob(name), *Path(gettempdir()).glob(name)]


def start(repository: Path, *arguments: str, before: Sequence[str] = (), **options: Any) -> Served:
    """Start the command and return when it serves.

    Args:
        repository: what it serves.
        arguments: of the command. Without ports among them it picks free ones.
        before: a command that runs it, such as a shell that sets limits.
        options: of the process, which writes its log nowhere by default.
    """
    ports = [] if "--http-port" in arguments else FREE
    command = [*before, sys.executable, "-m", "deploy.serve", "--repository", str(repository), *ports, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **{"stderr": subprocess.DEVNULL, **options})
    assert process.stdout is not None
    # serving on gRPC HOST:PORT, HTTP HOST:PORT, metrics HOST:PORT
    words = process.stdout.readline().replace(",", "").split()
    return Served(process=process, grpc=words[3], http=words[5], metrics=words[7])


@contextmanager
def served(repository: Path, *arguments: str, **options: Any) -> Iterator[Served]:
    """Run the command for as long as the block lasts."""
    running = start(repository, *arguments, **options)
    try:
        yield running
    finally:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(30)
