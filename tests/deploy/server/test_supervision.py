"""Kill and stop workers, which the server itself neither notices nor replaces."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

import pytest

from deploy.client import Client, ClientError
from deploy.contract import PIPELINE_MODEL
from deploy.server import Server, ServerError, Supervisor
from deploy.server.options import FREE_PORTS
from deploy.server.process.leftovers import remove_leftovers
from deploy.server.process.workers import workers_of

NOBODY = 65534


@pytest.fixture(scope="module")
def fragile(repository: Path) -> Iterator[Server]:
    """Run a server for these tests to break, with two workers a model, so that one may die while another lives."""
    options = replace(FREE_PORTS, tuning="throughput")
    with Server(repository, options) as running:
        yield running


@pytest.fixture
def answers(fragile: Server, make_image: Callable[..., bytes]) -> Callable[[], int]:
    """Return a function that counts how many of 4 requests are answered, each with the known mask."""
    data = make_image()
    with Client(fragile.grpc_url) as client:
        known = client.segment(data).mask.tobytes()

    def answered(client: Client) -> bool:
        try:
            mask = client.segment(data).mask
        except ClientError:
            return False
        assert mask.tobytes() == known
        return True

    def count() -> int:
        with Client(fragile.grpc_url, timeout=3) as client:
            return sum(answered(client) for _ in range(4))

    return count


@pytest.mark.parametrize(
    ("blow", "victims"), [(signal.SIGKILL, 1), (signal.SIGSTOP, 2)], ids=["one of two killed", "both hung"]
)
def test_worker_is_missed_and_replaced(
    fragile: Server, answers: Callable[[], int], blow: signal.Signals, victims: int
) -> None:
    before = workers_of(fragile.pid, PIPELINE_MODEL)
    assert len(before) == 2
    # A stopped worker exists and does not answer, which only a probe finds out.
    for worker in before[:victims]:
        os.kill(worker, blow)
    assert answers() < 4, "the server alone must not get over it, or there is nothing to test"
    report: list[str] = []
    supervisor = Supervisor(fragile, report.append)
    while not report:
        supervisor.attend()
    assert PIPELINE_MODEL in report[0]
    assert report[-1] == f"{PIPELINE_MODEL} answers again"
    assert set(workers_of(fragile.pid, PIPELINE_MODEL)).isdisjoint(before)
    assert answers() == 4


def test_dead_server_is_started_again(fragile: Server, answers: Callable[[], int]) -> None:
    os.kill(fragile.pid, signal.SIGKILL)
    report: list[str] = []
    supervisor = Supervisor(fragile, report.append)
    # Not repaired model by model: without its process, the server must be started again.
    with pytest.raises(ServerError):
        while True:
            supervisor.attend()
    supervisor.restart()
    assert answers() == 4


def unused_id() -> int:
    """Return the highest process id that no process has, which is the last to be given out."""
    return next(pid for pid in range(2**22 - 1, 0, -1) if not Path("/proc", str(pid)).exists())


def test_leftovers_of_dead_servers_are_removed_and_others_kept() -> None:
    left, kept = f"resformer-server-{unused_id()}-0123abcd", f"resformer-server-{os.getpid()}-0123abcd"
    memory, folder = Path("/dev/shm"), Path(gettempdir())
    # tritonserver's, of which the folder has a note.
    environments = [Path("/tmp", f"python_env_test{kind}{os.getpid()}") for kind in ("empty", "full")]
    gone = [memory / f"{left}-region", folder / left, environments[0]]
    # Kept: those of a live process, those whose name does not tell a process, and those of another user.
    stays = [
        memory / f"{kept}-region",
        memory / "resformer-server-test-region",
        folder / kept,
        environments[1],
        folder / f"{left}-theirs",
    ]
    try:
        for path in (gone[0], *stays[:2]):
            path.touch()
        for path in (gone[1], *stays[2:]):
            (path / "python").mkdir(parents=True)
        environments[0].mkdir()
        for environment in environments:
            (folder / left / environment.name).touch()
        if os.geteuid() == 0:
            os.chown(stays[-1], NOBODY, NOBODY)
        else:
            stays.remove(folder / f"{left}-theirs")
        remove_leftovers()
        assert [path for path in gone if path.exists()] == []
        assert [path for path in stays if not path.exists()] == []
    finally:
        for path in (*gone, *stays):
            path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)
