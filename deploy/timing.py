"""Times of several engines in one alternating run: on a shared machine only their ratios mean something."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

import numpy as np
from numpy.typing import NDArray

from deploy.engines import Runner

ROUNDS = 10


def alternating_ms(runners: Mapping[str, Runner], image: NDArray[np.float32], rounds: int = ROUNDS) -> dict[str, float]:
    """Median milliseconds of each runner for `image` (B, 3, S, S), one call each a round, after a warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds + 1):
        for name, runner in runners.items():
            start = time.perf_counter()
            runner(image)
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: median(measured[1:]) for name, measured in times.items()}
