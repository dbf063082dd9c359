"""Load for a server: as many callers as asked for, or requests that arrive when they please."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# So many requests may be under way at once in an open loop; later ones wait in the client, and the wait counts.
MOST_IN_FLIGHT = 64


@dataclass(frozen=True)
class Load:
    """latencies: seconds of each answered request, in no order; seconds: from the first request to the last answer."""

    latencies: NDArray[np.float64]
    seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Milliseconds within which `percent` of the requests were answered."""
        return float(np.percentile(self.latencies, percent)) * 1e3

    def summary(self) -> dict[str, float]:
        """Rounded figures for a benchmark's extra_info."""
        figures = {"rate": self.rate, "p50_ms": self.percentile(50), "p99_ms": self.percentile(99)}
        return {name: round(value, 2) for name, value in figures.items()}


def closed_loop(ask: Callable[[], object], callers: int, requests: int) -> Load:
    """`callers` threads that each ask again as soon as they are answered, `requests` in all."""
    return _timed(ask, callers, [0.0] * requests)


def open_loop(ask: Callable[[], object], rate: float, requests: int, seed: int) -> Load:
    """Poisson arrivals at `rate` a second, whether or not the last was answered; latency counts from the arrival."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, requests)
    return _timed(ask, MOST_IN_FLIGHT, np.cumsum(gaps).tolist())


def alternately(questions: dict[str, Callable[[], object]], rounds: int, warm_up: int = 5) -> dict[str, Load]:
    """Each question once a round, so that what else the machine does falls on all alike.

    In an order drawn anew from a seed: the threads of one engine spin on for a moment, at the cost of what comes next.
    """
    latencies: dict[str, list[float]] = {name: [] for name in questions}
    order = random.Random(0)
    for number in range(rounds + warm_up):
        for name in order.sample(list(questions), len(questions)):
            begin = time.perf_counter()
            questions[name]()
            if number >= warm_up:
                latencies[name].append(time.perf_counter() - begin)
    return {name: Load(np.array(values), sum(values)) for name, values in latencies.items()}


def _timed(ask: Callable[[], object], threads: int, arrivals: list[float]) -> Load:
    """Ask at each arrival (seconds from the start), or as soon after it as a thread is free."""
    latencies, lock = [], threading.Lock()
    start = time.perf_counter()

    def one(arrival: float) -> None:
        now = time.perf_counter() - start
        if now < arrival:
            time.sleep(arrival - now)
        begin = arrival or time.perf_counter() - start
        ask()
        with lock:
            latencies.append(time.perf_counter() - start - begin)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, arrivals))
    return Load(np.array(latencies), time.perf_counter() - start)
