"""Time several engines in one alternating run: on a shared machine only the ratios of times mean something."""

import time
from collections.abc import Mapping
from statistics import median

import numpy as np
from numpy.typing import NDArray

from deploy.engines import Runner

ROUNDS = 10
# Slow engines vary less in proportion to their own time, so a median of three rounds is enough for them.
FEWEST_ROUNDS, SECONDS = 3, 10.0


def alternating_ms(runners: Mapping[str, Runner], image: NDArray[np.float32]) -> dict[str, float]:
    """Measure the median milliseconds of each runner for `image` (B, 3, S, S).

    Every round calls each runner once. There are `ROUNDS` of them, or as many as begin within `SECONDS`, but at least
    `FEWEST_ROUNDS`.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    begun = time.perf_counter()
    # One more than `ROUNDS`, because the first only warms up.
    for number in range(ROUNDS + 1):
        if number > FEWEST_ROUNDS and time.perf_counter() - begun > SECONDS:
            break
        for name, runner in runners.items():
            start = time.perf_counter()
            runner(image)
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: median(measured[1:]) for name, measured in times.items()}
