"""Put a server under load: a fixed number of callers, or requests that arrive at random times."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Limit of the requests under way at once in an open loop. Later ones wait in the client, and the wait counts.
MOST_IN_FLIGHT = 64


@dataclass(frozen=True)
class Answers:
    """Hold the times of answered requests.

    latencies: seconds of each request, in no particular order.
    seconds: from the first request to the last answer.
    """

    latencies: NDArray[np.float64]
    seconds: float

    @property
    def rate(self) -> float:
        """Return the answers a second."""
        return len(self.latencies) / self.seconds


def closed_loop(send: Callable[[], object], callers: int, requests: int) -> Answers:
    """Send `requests` in all from `callers` threads, each of which sends again as soon as it is answered."""
    return _timed(send, callers, [0.0] * requests)


def open_loop(send: Callable[[], object], rate: float, requests: int, seed: int) -> Answers:
    """Send at Poisson arrivals of `rate` a second, whether or not the last request was answered.

    The latency counts from the arrival, so it includes the wait for a free thread.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, requests)
    return _timed(send, MOST_IN_FLIGHT, np.cumsum(gaps).tolist())


def _timed(send: Callable[[], object], threads: int, arrivals: list[float]) -> Answers:
    """Send at each arrival (seconds from the start), or as soon after it as a thread is free."""
    latencies, lock = [], threading.Lock()
    start = time.perf_counter()

    def one(arrival: float) -> None:
        now = time.perf_counter() - start
        if now < arrival:
            time.sleep(arrival - now)
        # An arrival of 0 marks a closed loop, whose requests have no time of their own and count from the sending.
        begin = arrival or time.perf_counter() - start
        send()
        with lock:
            latencies.append(time.perf_counter() - start - begin)

    with ThreadPoolExecutor(threads) as pool:
        # The list drains the map, which raises what a thread raised.
        list(pool.map(one, arrivals))
    return Answers(np.array(latencies), time.perf_counter() - start)
