"""Send requests to a server from a process of its own, so that sending does not share an interpreter with answering."""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from deploy.client import Client
from deploy.server import Server
from deploy.server.options import FREE_PORTS, Workers
from deploy.tuning import Point

# A 99th percentile of fewer answers would be their maximum, but a slow network must come to an end.
FEWEST_ANSWERS, LONGEST_FACTOR = 100, 10.0
ANSWER_SECONDS = 120.0


@contextmanager
def measured_server(repository: Path, choice: Workers) -> Iterator["LoadGenerator"]:
    """Run a server of one choice, and yield what loads it.

    Raises ServerError where it does not start.
    """
    options = replace(FREE_PORTS, tuning=choice)
    # Spawned: a forked process would share gRPC's state with the server's.
    with Server(repository, options) as server, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        yield LoadGenerator(server.grpc_url, choice, pool)


class LoadGenerator:
    """Load one server."""

    def __init__(self, url: str, choice: Workers, pool: ProcessPoolExecutor) -> None:
        self._url, self._choice, self._pool = url, choice, pool

    def run(self, image: bytes, callers: int, seconds: float) -> Point:
        """Send an image from a number of callers for so many seconds, and longer where too few are answered.

        Raises ClientError where one is not answered.
        """
        times, taken = self._pool.submit(send, self._url, image, callers, seconds).result()
        p50, p99 = np.percentile(times, (50, 99))
        return Point(
            workers=self._choice.workers,
            threads=self._choice.threads,
            callers=callers,
            answers=len(times),
            rate=round(len(times) / taken, 2),
            p50_ms=round(1000 * p50, 2),
            p99_ms=round(1000 * p99, 2),
        )


def send(url: str, image: bytes, callers: int, seconds: float) -> tuple[list[float], float]:
    """Send an image from each caller again and again, and return the seconds of every answer, and of all of it."""
    times: list[float] = []

    def call(client: Client) -> None:
        passed = 0.0
        while passed < seconds or (len(times) < FEWEST_ANSWERS and passed < LONGEST_FACTOR * seconds):
            times.append(client.segment(image).seconds)
            passed = time.perf_counter() - begin

    with ExitStack() as stack, ThreadPoolExecutor(callers) as pool:
        clients = [stack.enter_context(Client(url, timeout=ANSWER_SECONDS)) for _ in range(callers)]
        # Connections open, and buffers grow, at the first request.
        list(pool.map(lambda client: client.segment(image), clients))
        begin = time.perf_counter()
        list(pool.map(call, clients))
        return times, time.perf_counter() - begin
