"""End a server's supervisor in every way, after which nothing of it may be left and the next start must work."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.client import Client
from deploy.server.options import free_ports
from deploy.server.process.workers import children_of
from tests.helpers.serving import Served, start

MakeImage = Callable[..., bytes]
SIGNALS = (signal.SIGKILL, signal.SIGUSR2, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
# What runs in the background of a script ignores SIGQUIT and SIGINT, and so does all that it starts.
WAYS = [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
# Hanging after so long, a process would hang for ever.
PATIENCE_SECONDS = 30.0


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_nothing_is_left_of_a_supervisor_that_ended(repository: Path, make_image: MakeImage, count: int) -> None:
    names = ("--http-port", "--grpc-port", "--metrics-port")
    ports = [text for pair in zip(names, map(str, free_ports("127.0.0.1", 3)), strict=True) for text in pair]
    for number in range(count):
        # On the same ports each time: that it starts shows that they are free.
        server = start(repository, *ports)
        with Client(server.grpc) as client:
            assert client.segment(make_image()).mask.shape == (51, 51)
        processes = server.processes()
        assert len(processes) == 4, "guardian, tritonserver and two workers"
        assert len(server.files()) == 3, "a folder and two regions"
        environments = environments_of(server)
        server.process.send_signal(WAYS[number % len(WAYS)])
        server.process.wait(PATIENCE_SECONDS)
        assert until(lambda: not any(map(exists, processes)))  # noqa: B023 (called at once)
        assert until(lambda: not server.files())  # noqa: B023
        assert not any(path.exists() for path in environments)


@pytest.mark.parametrize("victim", ["tritonserver", pytest.param("guardian", marks=pytest.mark.slow)])
def test_workers_end_with_what_started_them(repository: Path, make_image: MakeImage, victim: str) -> None:
    server = start(repository)
    before = server.processes()
    (guardian,) = children_of(server.process.pid)
    os.kill(server.tritonserver if victim == "tritonserver" else guardian, signal.SIGKILL)
    assert until(lambda: not any(map(exists, before)))
    # The supervisor has started a new one meanwhile or does so now.
    with Client(server.grpc, retry_for=PATIENCE_SECONDS) as client:
        assert client.segment(make_image()).mask.shape == (51, 51)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE_SECONDS) == 0
    assert server.files() == []


def environments_of(server: Served) -> list[Path]:
    """Return the folders outside of its own that tritonserver has made, by the notes of them, and expect them to be."""
    (folder,) = [path for path in server.files() if path.is_dir()]
    found = [Path("/tmp", path.name) for path in folder.glob("python_env_*")]
    assert found
    return found


def exists(pid: int) -> bool:
    """Say whether a process is there and not only waits for its parent to notice its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(holds: Callable[[], bool]) -> bool:
    """Wait until something holds, and say whether it did in the end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()
