"""Measure the server under load: what serving costs, how much load it carries, and what faults cost.

The cost is that of a request less the same work in process.

`pytest bench/test_serving.py --benchmark-only` runs the short forms, with `-m slow` the long ones.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import tritonclient.http as http_api
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import Subject
from bench.load import Load, alternately, closed_loop, open_loop
from bench.shared_memory import SharedMemory, bare_http, request_for
from data_pipeline import Preprocessor
from deploy.client import Client
from deploy.contract import PIPELINE_MODEL
from deploy.files import DIRECTORY, VERSION, read_config
from deploy.network import Network
from deploy.server import Server, Supervisor
from deploy.server.model_configs import tuned
from deploy.server.options import FREE_PORTS
from deploy.server.process.workers import workers_of
from tests.helpers.memory import resident_bytes

SOAK_REQUESTS = int(os.environ.get("SOAK_REQUESTS", "20000"))
SOAK_CALLERS = 4
KILLS, REQUESTS_BETWEEN_KILLS = 5, 400


@pytest.fixture(scope="module")
def in_process(subject: Subject) -> Callable[[], object]:
    """Do the served work without a server: the same code on the same file, with every core."""
    folder = subject.output / DIRECTORY / PIPELINE_MODEL
    parameters = {name: one.string_value for name, one in tuned(read_config(folder), FREE_PORTS).parameters.items()}
    contract, wanted = subject.contract, {"MASK", "CLASS_PROBS"}
    network = Network(
        folder / VERSION / parameters["network"], parameters["execution"], threads=int(parameters["threads"])
    )
    preprocess = Preprocessor(contract.preprocessing)
    return lambda: network([preprocess(subject.image)], 1, wanted)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    # A machine at its limit starves a worker of its heartbeat, and the server then turns requests away for a moment.
    with Client(server.grpc_url, retry_for=30) as connected:
        yield connected


def record(benchmark: BenchmarkFixture, run: Callable[[], Load], stage: str) -> Load:
    """Run once under the benchmark's clock and keep the figures next to its own."""
    load: Load = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(stage=stage, **load.summary())
    return load


def test_cost_of_serving(
    benchmark: BenchmarkFixture, subject: Subject, server: Server, client: Client, in_process: Callable[[], object]
) -> None:
    with Client(server.http_url, "http") as http, bare_http(server) as bare, SharedMemory(server, subject) as shared:
        # The names are keys of the JSON, by which runs are compared: renaming one would end its row.
        operations = {
            "in process": in_process,
            "gRPC": lambda: client.segment(subject.image),
            "gRPC, shared memory": shared.infer,
            "HTTP": lambda: http.segment(subject.image),
            "HTTP without the front": lambda: bare.infer(
                **request_for(http_api, subject), headers=server.internal.headers
            ),
        }
        loads = benchmark.pedantic(alternately, args=(operations, 100), rounds=1)
    benchmark.extra_info.update({name: load.summary() for name, load in loads.items()})


@pytest.mark.slow
@pytest.mark.parametrize("callers", [1, 2, 4, 8])
def test_closed_loop(benchmark: BenchmarkFixture, subject: Subject, client: Client, callers: int) -> None:
    record(
        benchmark,
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
    record(benchmark, lambda: open_loop(send, share * saturation, 200, seed=1), stage)


def test_throughput_with_a_worker_a_core(
    benchmark: BenchmarkFixture, subject: Subject, in_process: Callable[[], object]
) -> None:
    # Before the server starts, whose health probe would share the cores with it.
    alone = closed_loop(in_process, 1, 100).rate
    options = replace(FREE_PORTS, tuning="throughput")
    with Server(subject.output / DIRECTORY, options) as server, Client(server.grpc_url) as client:
        load = record(
            benchmark, lambda: closed_loop(lambda: client.segment(subject.image), 8, 300), "a worker a core, 8 callers"
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
    load = record(benchmark, lambda: closed_loop(send, SOAK_CALLERS, SOAK_REQUESTS), f"soak, {SOAK_REQUESTS} requests")
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

        def run() -> Load:
            stop = threading.Event()
            # `Server` alone replaces no worker: `python -m deploy.serve` runs this loop next to it.
            attendant = threading.Thread(target=attend, args=(server, stop))
            attendant.start()
            try:
                return max((killed_then(server, send) for _ in range(KILLS)), key=lambda load: load.latencies.max())
            finally:
                stop.set()
                attendant.join()

        load = record(benchmark, run, f"worker killed {KILLS} times under load, the client trying again")
        benchmark.extra_info["longest_wait_s"] = round(float(load.latencies.max()), 2)


def killed_then(server: Server, send: Callable[[], None]) -> Load:
    """Kill the workers and go on sending. The longest latency is how long nobody was answered."""
    for worker in workers_of(server.pid, PIPELINE_MODEL):
        os.kill(worker, signal.SIGKILL)
    return closed_loop(send, SOAK_CALLERS, REQUESTS_BETWEEN_KILLS)


def attend(server: Server, stop: threading.Event) -> None:
    """Run the supervisor's loop until `stop` is set."""
    supervisor = Supervisor(server, print)
    while not stop.wait(1.0):
        supervisor.attend()
