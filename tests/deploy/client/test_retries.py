"""Test the client while servers come and go."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.client import AsyncClient, Client, InvalidImage, ServerUnavailable
from deploy.client.balancer import Balancer
from deploy.contract import PIPELINE_MODEL
from deploy.server import Server, Supervisor
from deploy.server.options import FREE_PORTS
from deploy.server.process.workers import workers_of

NOBODY = "127.0.0.1:9"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_worker_killed_under_load_costs_no_request(
    repository: Path, make_image: Callable[..., bytes], protocol: Any
) -> None:
    data, masks, stop = make_image(), [], threading.Event()
    with Server(repository, FREE_PORTS) as server:
        url = server.grpc_url if protocol == "grpc" else server.http_url
        with Client(url, protocol) as client:
            known = client.segment(data).mask.tobytes()

        def call() -> None:
            with Client(url, protocol, retry_for=60) as client:
                while not stop.is_set():
                    masks.append(client.segment(data).mask.tobytes())

        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        os.kill(workers_of(server.pid, PIPELINE_MODEL)[0], signal.SIGKILL)
        report: list[str] = []
        # Until the first check that finds the worker missing, which also replaces it.
        while not report:
            Supervisor(server, report.append).attend()
        # Ten more answers prove that the new worker serves.
        before = len(masks)
        while len(masks) < before + 10 and all(caller.is_alive() for caller in callers):
            stop.wait(0.05)
        assert all(caller.is_alive() for caller in callers), "a caller ended by an error"
        stop.set()
        for caller in callers:
            caller.join()
    assert set(masks) == {known}


def test_second_server_takes_over_and_the_first_is_admitted_again(
    server: Server, repository: Path, make_image: Callable[..., bytes]
) -> None:
    data = make_image()
    with Server(repository, FREE_PORTS) as other, Client([other.grpc_url, server.grpc_url]) as client:
        known = client.segment(data).mask.tobytes()
        os.kill(other.pid, signal.SIGKILL)
        assert {client.segment(data).mask.tobytes() for _ in range(8)} == {known}
        Supervisor(other, lambda line: None).restart()
        # Ends only where the client turns to the second server by itself again.
        before = executions(other)
        while executions(other) == before:
            assert client.segment(data).mask.tobytes() == known


def executions(server: Server) -> int:
    """Return how many inferences a server has answered."""
    import tritonclient.grpc as grpc

    with grpc.InferenceServerClient(server.grpc_url) as raw:
        (model,) = raw.get_inference_statistics(PIPELINE_MODEL).model_stats
    return int(model.inference_stats.success.count)


def test_refused_image_is_not_sent_twice(server: Server) -> None:
    with Client([server.grpc_url, NOBODY], retry_for=30) as client:
        for _ in range(4):
            with pytest.raises(InvalidImage):
                client.segment(b"no image")


def test_patience_ends(server: Server) -> None:
    with Client(NOBODY, retry_for=0.3) as client, pytest.raises(ServerUnavailable):
        client.segment(b"")


def test_balancer_takes_turns_and_leaves_the_dropped_for_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("deploy.client.balancer.time.monotonic", lambda: now)
    balancer = Balancer(["a", "b", "c"])
    assert [next(balancer.candidates()) for _ in range(4)] == ["a", "b", "c", "a"]
    balancer.drop("b")
    # "b" keeps its place in the turn while it rests, and is offered last.
    assert list(balancer.candidates()) == ["c", "a", "b"]
    now += 2.0
    assert next(iter(list(balancer.candidates()))) == "c"
    assert {next(balancer.candidates()) for _ in range(3)} == {"a", "b", "c"}


def test_asyncio_client_answers_many_at_once(server: Server, make_image: Callable[..., bytes], in_process: Any) -> None:
    files = [make_image((40 + 3 * number, 50), seed=number) for number in range(12)]

    async def segment_all() -> list[Any]:
        async with AsyncClient(server.grpc_url, in_flight=3) as client:
            with pytest.raises(InvalidImage):
                await client.segment(b"no image")
            return await asyncio.gather(*(client.segment(data) for data in files))

    for data, result in zip(files, asyncio.run(segment_all()), strict=True):
        expected = in_process(data)["CLASS_PROBS"]
        assert list(result.class_probabilities.values()) == pytest.approx(expected.tolist(), abs=2e-6)
