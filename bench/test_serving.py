"""Measure the server under load: how much it carries, and what faults cost.

`pytest bench/test_serving.py --benchmark-only` runs the short forms, with `-m slow` the long ones.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import Subject
from bench.load import Answers, closed_loop, open_loop
from bench.turns import keep
from deploy.client import Client
from deploy.contract import PIPELINE_MODEL
from deploy.files import DIRECTORY
from deploy.server import Server, Supervisor
from deploy.server.options import FREE_PORTS
from deploy.server.process.workers import children_of, workers_of

SOAK_REQUESTS = int(os.environ.get("SOAK_REQUESTS", "20000"))
SOAK_CALLERS = 4
KILLS, REQUESTS_BETWEEN_KILLS = 5, 400


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    # A machine at its limit starves a worker of its heartbeat, and the server then turns requests away for a moment.
    with Client(server.grpc_url, retry_for=30) as connected:
        yield connected


def record(benchmark: BenchmarkFixture, subject: Subject, run: Callable[[], Answers], stage: str) -> Answers:
    """Put a server under load once. The rounds of the benchmark are the latencies of the requests."""
    benchmark.group = "under load, one request"
    load: Answers = benchmark.pedantic(run)
    keep(benchmark, load.latencies.tolist())
    benchmark.extra_info.update(load=stage, rate=round(load.rate, 2), checkpoint=subject.name)
    return load


@pytest.mark.slow
@pytest.mark.parametrize("callers", [1, 2, 4, 8])
def test_closed_loop(benchmark: BenchmarkFixture, subject: Subject, client: Client, callers: int) -> None:
    record(
        benchmark,
        subject,
        lambda: closed_loop(lambda: client.segment(subject.image), callers, 200),
        f"closed loop, {callers} callers",
    )


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.25, 0.5, 0.8, 1.1])
def test_poisson_arrivals(benchmark: BenchmarkFixture, subject: Subject, client: Client, share: float) -> None:
    def send() -> object:
        return client.segment(subject.image)

    # Taken right before, because a shared machine's rate changes from hour to hour.
    saturation = closed_loop(send, 4, 60).rate
    stage = f"Poisson arrivals at {share:.0%} of saturation"
    record(benchmark, subject, lambda: open_loop(send, share * saturation, 200, seed=1), stage)


def test_throughput_with_a_worker_a_core(
    benchmark: BenchmarkFixture, subject: Subject, in_process: Callable[[], object]
) -> None:
    # Before the server starts, whose health probe would share the cores with it.
    alone = closed_loop(in_process, 1, 100).rate
    options = replace(FREE_PORTS, tuning="throughput")
    with Server(subject.output / DIRECTORY, options) as server, Client(server.grpc_url) as client:
        load = record(
            benchmark,
            subject,
            lambda: closed_loop(lambda: client.segment(subject.image), 8, 300),
            "a worker a core, 8 callers",
        )
    benchmark.extra_info.update(in_process_rate=round(alone, 2), share=round(load.rate / alone, 3))


@pytest.mark.slow
def test_soak(benchmark: BenchmarkFixture, subject: Subject, server: Server, client: Client) -> None:
    known = client.segment(subject.image).mask.tobytes()

    def send() -> None:
        assert client.segment(subject.image).mask.tobytes() == known

    # The server allocates its buffers in the first requests, which is no leak.
    closed_loop(send, SOAK_CALLERS, 1000)
    before = resident_bytes(server)
    load = record(
        benchmark, subject, lambda: closed_loop(send, SOAK_CALLERS, SOAK_REQUESTS), f"soak, {SOAK_REQUESTS} requests"
    )
    after = resident_bytes(server)
    benchmark.extra_info.update(
        answered=len(load.latencies), megabytes_before=before // 2**20, megabytes_after=after // 2**20
    )
    assert len(load.latencies) == SOAK_REQUESTS
    assert after < 1.05 * before


@pytest.mark.slow
def test_worker_killed_again_and_again(benchmark: BenchmarkFixture, subject: Subject) -> None:
    repository = subject.output / DIRECTORY
    with Server(repository, FREE_PORTS) as server, Client(server.grpc_url, retry_for=60) as client:
        known = client.segment(subject.image).mask.tobytes()

        def send() -> None:
            assert client.segment(subject.image).mask.tobytes() == known

        def run() -> Answers:
            stop = threading.Event()
            # `Server` alone replaces no worker: `python -m deploy.serve` runs this loop next to it.
            attendant = threading.Thread(target=attend, args=(server, stop))
            attendant.start()
            try:
                return max((killed_then(server, send) for _ in range(KILLS)), key=lambda load: load.latencies.max())
            finally:
                stop.set()
                attendant.join()

        load = record(benchmark, subject, run, f"worker killed {KILLS} times under load, the client trying again")
        benchmark.extra_info["longest_wait_s"] = round(float(load.latencies.max()), 2)


def resident_bytes(server: Server) -> int:
    """Return the resident memory of the server and its workers."""
    status = [Path(f"/proc/{pid}/status").read_text(encoding="utf-8") for pid in (server.pid, *children_of(server.pid))]
    # The kernel's "kB" are 1024 bytes.
    return sum(1024 * int(text.partition("VmRSS:")[2].split()[0]) for text in status)


def killed_then(server: Server, send: Callable[[], None]) -> Answers:
    """Kill the workers and go on sending. The longest latency is how long nobody was answered."""
    for worker in workers_of(server.pid, PIPELINE_MODEL):
        os.kill(worker, signal.SIGKILL)
    return closed_loop(send, SOAK_CALLERS, REQUESTS_BETWEEN_KILLS)


def attend(server: Server, stop: threading.Event) -> None:
    """Run the supervisor's loop until `stop` is set."""
    supervisor = Supervisor(server, print)
    while not stop.wait(1.0):
        supervisor.attend()
