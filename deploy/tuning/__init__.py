"""Measure a server under load over workers and threads, and choose among them."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.errors import ServerError
from deploy.server.options import Workers, plural

# Choices that are so near the best are as good: the machine's own noise is larger.
NEAR = 0.97


@dataclass(frozen=True, kw_only=True)
class Point:
    """Hold what a number of callers saw of one choice of workers and threads.

    workers: processes of the served model.
    threads: of each of them.
    callers: each sends its next request when the last one is answered.
    answers: number that the figures come from.
    rate: answers a second.
    p50_ms: median time of an answer in milliseconds.
    p99_ms: time that one answer in a hundred takes longer than.
    """

    workers: int
    threads: int
    callers: int
    answers: int
    rate: float
    p50_ms: float
    p99_ms: float

    @property
    def choice(self) -> Workers:
        """Return the workers and threads."""
        return Workers(self.workers, self.threads)


def grid(cores: int) -> list[Workers]:
    """List the choices to measure: numbers of workers and threads that double, together at most the cores."""
    return [Workers(workers, threads) for workers in _doubling(cores) for threads in _doubling(cores // workers)]


def callers_for(workers: int) -> list[int]:
    """List the numbers of callers to measure: alone, one a worker, and so many that some wait."""
    return sorted({1, workers, 2 * workers, 4 * workers})


def best(points: Sequence[Point], p99_ms: float | None) -> Point:
    """Return the point of the most answers a second, or of those within a limit on the 99th percentile.

    Raises ServerError where none is within the limit.
    """
    within = [point for point in points if p99_ms is None or point.p99_ms <= p99_ms]
    if not within:
        least = min(points, key=lambda point: point.p99_ms)
        raise ServerError(
            f"no choice keeps the 99th percentile within {p99_ms:g} ms: the lowest is {least.p99_ms:.1f} ms, with "
            f"{least.choice} and {plural(least.callers, 'caller')}"
        )
    most = max(point.rate for point in within)
    # Fewer workers take less memory.
    near = [point for point in within if point.rate >= NEAR * most]
    return min(near, key=lambda point: (point.workers, -point.rate))


def quickest(points: Sequence[Point]) -> Point:
    """Return the point of the lowest median where nobody else asks."""
    return min((point for point in points if point.callers == 1), key=lambda point: point.p50_ms)


def _doubling(most: int) -> list[int]:
    return sorted({1 << power for power in range(most.bit_length())} | {most})
