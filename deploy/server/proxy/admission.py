"""Let each model have as many requests in work as it has workers, and keep a bounded number of others waiting."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from deploy.server.proxy.metrics import family
from deploy.server.proxy.request import Rejection
from deploy.server.proxy.suspects import Content, Suspects

# For each worker. At 100 ms an image, the last of them waits for 3 s.
WAITING = 32
# Bodies that wait, in largest requests: memory must not grow with the number of clients.
WAITING_BODIES = 8
# How long any request may keep its worker, and what is added for each byte of it.
WORK_SECONDS, SECONDS_A_BYTE = 60.0, 1e-6

POLL_SECONDS = 0.02

Answer = TypeVar("Answer")


class Room:
    """Bound the bytes of bodies that are on their way, whoever sends them."""

    def __init__(self, largest: int) -> None:
        """Leave room for as many of the largest requests as may wait."""
        self._left = WAITING_BODIES * largest

    def take(self, size: int) -> None:
        """Count bytes that have arrived, or raise Rejection where there is no room for them."""
        if size > self._left:
            message = "other requests are arriving that fill the memory: try again later"
            raise Rejection(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", message)
        self._left -= size

    def give_back(self, size: int) -> None:
        """Leave room for others."""
        self._left += size


@dataclass(frozen=True)
class Work:
    """Describe a request that a worker has.

    since: when it was handed over, of `time.monotonic`.
    size: bytes of its body.
    """

    since: float
    size: int

    @property
    def late(self) -> bool:
        """Return whether it has taken longer than any request of its size may."""
        return time.monotonic() - self.since > WORK_SECONDS + SECONDS_A_BYTE * self.size


class Admission:
    """Hold back requests that no worker is free for, where they can still be dropped.

    tritonserver would compute a request over HTTP whose client has gone, and keep any number of them in memory. Its
    methods belong to the event loop of the proxy, except where they say otherwise.

    closed: whether no more requests are taken.
    """

    def __init__(self, workers: Mapping[str, int], largest: int) -> None:
        """Begin with every worker free.

        Args:
            workers: the number of them, by model.
            largest: bytes that one request may have.
        """
        self._lines = {model: _Line(count, WAITING_BODIES * largest) for model, count in workers.items()}
        self._suspects = Suspects()
        self._starts = dict.fromkeys(workers, 0)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.closed = False

    async def run(
        self, model: str, content: Content, seconds: float | None, call: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Return what `call` returns, made when a worker of the model is free.

        Where the caller is cancelled before, the call is never made. Where it is cancelled after, the call goes on
        without it, because the worker does too: the next one is not made before it ends.

        Args:
            model: a model's name. For one that does not exist, tritonserver is left to say so.
            content: what makes the request another one than others.
            seconds: how long it may wait, None for as long as it takes.
            call: forwards the request.

        Raises:
            Rejection: too many wait already, the time has passed, or workers have ended over this content before.
        """
        if model not in self._lines:
            return await call()
        self._loop = asyncio.get_running_loop()
        if self.closed:
            raise Rejection(HTTPStatus.SERVICE_UNAVAILABLE, "stopping", "the server is being stopped")
        line, size = self._lines[model], sum(map(len, content))
        if why := self._suspects.refuses(model, content):
            raise Rejection(HTTPStatus.BAD_REQUEST, "ends_workers", why)
        await line.enter(size, seconds)
        task = asyncio.ensure_future(line.work(Work(time.monotonic(), size), call))
        line.tasks.add(task)
        task.add_done_callback(partial(self._ended, model, content))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                message = "the worker that had this request was replaced"
                raise Rejection(HTTPStatus.SERVICE_UNAVAILABLE, "worker_replaced", message) from None
            raise

    def lost(self, model: str, content: Content) -> None:
        """Take note that a worker of the model has ended, as the answer to a request says."""
        self._suspects.failed(model, content)

    def answered(self, model: str, content: Content) -> None:
        """Take note that a request was answered."""
        self._suspects.answered(model, content)

    def give_up(self, model: str) -> None:
        """End what the workers of a model had, for which tritonserver may wait without end.

        Any thread may call it, here and below.
        """
        self._soon(self._lines[model].give_up)

    def started(self, model: str, workers: int) -> None:
        """Take note that the model has new workers, and how many."""
        self._suspects.replaced(model)
        self._starts[model] += 1
        self.closed = False
        self._soon(partial(self._lines[model].resize, workers))

    def busy(self, model: str) -> bool:
        """Return whether a worker of the model has a request that may still take its time."""
        return any(not work.late for work in self._lines[model].works)

    def _ended(self, model: str, content: Content, task: "asyncio.Future[Any]") -> None:
        self._lines[model].done(task)
        if task.cancelled():
            # Most often the supervisor misses a worker before tritonserver does.
            self._suspects.failed(model, content)

    def drain(self, seconds: float) -> float:
        """Take no more requests, wait until those that were taken are answered, and return the seconds left."""
        self.closed = True
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and any(map(_Line.taken, self._lines.values())):
            time.sleep(POLL_SECONDS)
        return max(left, 0.0)

    def _soon(self, change: Callable[[], None]) -> None:
        # Without a loop, or with that of a proxy that was stopped, nothing is in work.
        if self._loop is None or self._loop.is_closed():
            change()
        else:
            self._loop.call_soon_threadsafe(change)

    def text(self) -> str:
        """Return how many requests wait, and how often workers have started, as Prometheus reads it."""
        waiting = {model: len(line.turns) for model, line in self._lines.items()}
        starts = "Starts of a model's workers, the first one included"
        return "".join(
            [
                family("waiting_requests", "gauge", "Requests that wait for a worker", waiting, "model"),
                family("worker_starts_total", "counter", starts, self._starts, "model"),
            ]
        )


class _Line:
    """Hold the requests of one model, in the order in which they came."""

    def __init__(self, workers: int, most_bytes: int) -> None:
        # Fewer than none are free for a while where the number of workers falls.
        self._workers, self._free = workers, workers
        self._bytes, self._most_bytes = 0, most_bytes
        self.turns: deque[asyncio.Future[None]] = deque()
        self.works: tuple[Work, ...] = ()
        self.tasks: set[asyncio.Future[Any]] = set()

    def taken(self) -> int:
        """Return how many requests wait or are in work."""
        return len(self.turns) + len(self.works)

    async def enter(self, size: int, seconds: float | None) -> None:
        """Wait for a free worker and take it."""
        if self._free > 0:
            self._free -= 1
            return
        if len(self.turns) >= WAITING * self._workers or self._bytes + size > self._most_bytes:
            message = f"{len(self.turns)} requests are waiting already: try again later"
            raise Rejection(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", message)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.turns.append(turn)
        self._bytes += size
        try:
            with _limit(turn, seconds):
                await turn
        except BaseException:
            if turn in self.turns:
                self.turns.remove(turn)
            elif not turn.cancelled() and turn.exception() is None:
                # Its turn came as it left.
                self._leave()
            raise
        finally:
            self._bytes -= size

    async def work(self, work: Work, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Make the call."""
        # Replaced and never changed, since other threads read it.
        self.works = (*self.works, work)
        try:
            return await call()
        finally:
            self.works = tuple(one for one in self.works if one is not work)

    def resize(self, workers: int) -> None:
        """Go on with another number of workers."""
        self._free += workers - self._workers
        self._workers = workers
        self._admit()

    def give_up(self) -> None:
        """End the calls that were made."""
        for task in self.tasks:
            task.cancel()

    def done(self, task: "asyncio.Future[Any]") -> None:
        """Drop a call that has ended, and let the next one in."""
        self.tasks.discard(task)
        # Here and not at the end of `work`, of which a call that is given up before its first step runs nothing.
        self._leave()
        # Whoever wanted the result may be gone, and asyncio complains of errors that nobody has seen.
        if not task.cancelled():
            task.exception()

    def _leave(self) -> None:
        self._free += 1
        self._admit()

    def _admit(self) -> None:
        while self._free > 0 and self.turns:
            turn = self.turns.popleft()
            # One whose client has just gone is still here.
            if not turn.done():
                self._free -= 1
                turn.set_result(None)


@contextmanager
def _limit(turn: "asyncio.Future[None]", seconds: float | None) -> Iterator[None]:
    """Let a turn fail after so many seconds."""

    def expire() -> None:
        if not turn.done():
            message = "the request's timeout has passed before its turn came"
            turn.set_exception(Rejection(HTTPStatus.GATEWAY_TIMEOUT, "expired", message))

    timer = asyncio.get_running_loop().call_later(seconds, expire) if seconds is not None else None
    try:
        yield
    finally:
        if timer:
            timer.cancel()
