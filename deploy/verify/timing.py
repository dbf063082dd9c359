"""Times of several engines in one alternating run: on a shared machine only their ratios mean something."""

import time
from collections.abc import Mapping
from statistics import median

import numpy as np
from numpy.typing import NDArray

from deploy.engines import Runner

ROUNDS = 10
FEWEST_ROUNDS, SECONDS = 3, 10.0  # slow engines vary less beside their own time: a median of three will do


def alternating_ms(runners: Mapping[str, Runner], image: NDArray[np.float32]) -> dict[str, float]:
    """Median milliseconds of each runner for `image` (B, 3, S, S), one call each a round, after a warm-up round.

    `ROUNDS` rounds, or as many as begin within `SECONDS` but at least `FEWEST_ROUNDS`.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    begun = time.perf_counter()
    for number in range(ROUNDS + 1):
        if number > FEWEST_ROUNDS and time.perf_counter() - begun > SECONDS:
            break
        for name, runner in runners.items():
            start = time.perf_counter()
            runner(image)
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: median(measured[1:]) for name, measured in times.items()}
