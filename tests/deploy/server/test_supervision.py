"""Kill and stop workers, which the server itself neither notices nor replaces."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.client import Client, ClientError
from deploy.contract import PIPELINE_MODEL
from deploy.server import Server, ServerError, Supervisor
from deploy.server.options import FREE_PORTS
from deploy.server.process.workers import remove_leftovers, workers_of


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


def test_leftovers_of_dead_servers_are_removed_and_others_kept() -> None:
    folder = Path("/dev/shm")
    # The highest possible ids are the last to be given out.
    unused = next(pid for pid in range(2**22 - 1, 0, -1) if not Path("/proc", str(pid)).exists())
    left = folder / f"resformer_server_{unused}_0123abcd_region"
    kept = [folder / f"resformer_server_{os.getpid()}_0123abcd_region", folder / "resformer_server_test_region"]
    # Kept: those of a live process, and those whose name does not tell a process.
    for file in (left, *kept):
        file.touch()
    try:
        remove_leftovers()
        assert not left.exists()
        assert all(file.exists() for file in kept)
    finally:
        for file in kept:
            file.unlink()
