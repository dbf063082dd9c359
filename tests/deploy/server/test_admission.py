"""Test the queue before the workers by itself: its order, its bounds, and who leaves it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from deploy.server.proxy.admission import WAITING, WAITING_BODIES, Admission
from deploy.server.proxy.request import Rejection

LARGEST = 100


class Workers:
    """Stand in for workers that end a request when they are told to.

    begun: the requests that were handed to them, in order.
    """

    def __init__(self, count: int = 1) -> None:
        self.admission = Admission({"model": count}, LARGEST)
        self.begun: list[int] = []
        self._ends: list[asyncio.Event] = []

    def send(self, number: int, *, size: int = 1, seconds: float | None = None) -> "asyncio.Task[int]":
        """Send a request."""
        return asyncio.ensure_future(self.admission.run("model", [bytes(size)], seconds, self._call(number)))

    def end(self) -> None:
        """End what was begun."""
        for event in self._ends:
            event.set()

    def _call(self, number: int) -> Callable[[], Awaitable[int]]:
        async def call() -> int:
            self.begun.append(number)
            self._ends.append(asyncio.Event())
            await self._ends[-1].wait()
            return number

        return call


async def settle() -> None:
    """Let all tasks run until each waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def settle_and_end(workers: Workers) -> None:
    await settle()
    workers.end()


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a plain test of one that awaits."""

    def run() -> None:
        asyncio.run(test())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@in_a_loop
async def test_as_many_are_in_work_as_there_are_workers_and_the_first_comes_first() -> None:
    workers = Workers(2)
    tasks = [workers.send(number) for number in range(5)]
    for begun in ([0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4]):
        await settle()
        assert workers.begun == begun
        assert workers.admission.busy("model")
        workers.end()
    assert await asyncio.gather(*tasks) == [0, 1, 2, 3, 4]
    assert not workers.admission.busy("model")


@in_a_loop
async def test_those_whose_clients_leave_are_never_begun() -> None:
    workers = Workers()
    tasks = [workers.send(number) for number in range(1 + WAITING)]
    await settle()
    for task in tasks[:WAITING]:
        task.cancel()
    await settle()
    assert workers.begun == [0], "the worker still has one, though its client has left as well"
    workers.end()
    await settle()
    assert workers.begun == [0, WAITING]


@pytest.mark.parametrize("steps", range(8))
def test_one_that_leaves_when_its_turn_comes_passes_it_on(steps: int) -> None:
    """Let a client leave in each step of the loop between the end of one request and the begin of the next."""

    async def leave() -> None:
        workers = Workers()
        first, second, third = (workers.send(number) for number in range(3))
        await settle()
        workers.end()
        for _ in range(steps):
            await asyncio.sleep(0)
        second.cancel()
        for _ in range(3):
            await settle_and_end(workers)
        assert (await first, await third) == (0, 2)
        assert not workers.admission.busy("model")

    asyncio.run(leave())


@in_a_loop
async def test_more_than_may_wait_are_refused_at_once() -> None:
    workers = Workers()
    tasks = [workers.send(number) for number in range(1 + WAITING)]
    await settle()
    with pytest.raises(Rejection, match=f"{WAITING} requests are waiting") as refused:
        await workers.send(99)
    assert (refused.value.status, refused.value.reason) == (503, "overloaded")
    tasks[-1].cancel()
    await settle()
    workers.send(100)
    await settle()
    assert f'resformer_waiting_requests{{model="model"}} {WAITING}\n' in workers.admission.text()


@in_a_loop
async def test_the_bytes_that_wait_are_bounded() -> None:
    workers = Workers()
    for number in range(1 + WAITING_BODIES):
        workers.send(number, size=LARGEST)
    await settle()
    with pytest.raises(Rejection, match="waiting"):
        await workers.send(99, size=1)


@in_a_loop
async def test_a_deadline_that_passes_takes_a_request_out() -> None:
    workers = Workers()
    workers.send(0)
    await settle()
    with pytest.raises(Rejection, match="timeout has passed") as expired:
        await workers.send(1, seconds=0.01)
    assert (expired.value.status, expired.value.reason) == (504, "expired")
    last = workers.send(2)
    await settle_and_end(workers)
    await settle_and_end(workers)
    assert await last == 2
    assert workers.begun == [0, 2]


@in_a_loop
async def test_what_replaced_workers_had_is_given_up() -> None:
    workers = Workers()
    lost, waiting = workers.send(0), workers.send(1)
    await settle()
    workers.admission.give_up("model")
    with pytest.raises(Rejection, match="was replaced") as given_up:
        await lost
    assert given_up.value.status == 503, "a client may try again"
    await settle_and_end(workers)
    assert await waiting == 1


@in_a_loop
async def test_what_is_given_up_before_it_began_leaves_its_worker_free() -> None:
    """Replace workers between the moment that a request takes one and the first step of its call."""
    workers = Workers()
    lost = workers.send(0)
    while not workers.admission._lines["model"].tasks:
        await asyncio.sleep(0)
    workers.admission._lines["model"].give_up()
    with pytest.raises(Rejection, match="was replaced"):
        await lost
    assert workers.begun == []
    sent = workers.send(1)
    await settle_and_end(workers)
    assert await sent == 1


@in_a_loop
async def test_a_request_that_ends_two_workers_is_not_taken_again() -> None:
    admission = Admission({"model": 1}, LARGEST)
    poison, innocent = [b"poison"], [b"good"]

    async def answer() -> str:
        return "answered"

    for _ in range(2):
        assert await admission.run("model", poison, None, answer) == "answered"
        admission.lost("model", poison)
        # Until the worker is replaced every request fails, and none of these has ended it.
        admission.lost("model", innocent)
        admission.started("model", 1)
        await settle()
    with pytest.raises(Rejection, match="2 workers ended while they had this request") as refused:
        await admission.run("model", poison, None, answer)
    assert refused.value.status == 400, "a client must not try again"
    assert await admission.run("model", innocent, None, answer) == "answered"


@in_a_loop
async def test_a_request_that_was_answered_is_above_suspicion() -> None:
    admission = Admission({"model": 1}, LARGEST)

    async def answer() -> str:
        return "answered"

    for _ in range(4):
        admission.lost("model", [b"asked again and again"])
        admission.started("model", 1)
        await settle()
        admission.answered("model", [b"asked again and again"])
    assert await admission.run("model", [b"asked again and again"], None, answer) == "answered"


@in_a_loop
async def test_the_number_of_workers_may_change_while_they_work() -> None:
    workers = Workers(1)
    for number in range(6):
        workers.send(number)
    await settle()
    workers.admission.started("model", 3)
    await settle()
    assert workers.begun == [0, 1, 2], "the old one's request is still in work"
    workers.admission.started("model", 1)
    await settle()
    workers.end()
    await settle()
    assert workers.begun == [0, 1, 2, 3]


@in_a_loop
async def test_what_was_taken_is_answered_before_the_end() -> None:
    workers = Workers()
    taken = [workers.send(number) for number in range(3)]
    await settle()
    drained = asyncio.ensure_future(asyncio.to_thread(workers.admission.drain, 30))
    while not workers.admission.closed:
        await asyncio.sleep(0.01)
    with pytest.raises(Rejection, match="being stopped"):
        await workers.send(3)
    for _ in taken:
        assert not drained.done()
        await settle_and_end(workers)
    assert await drained > 0
    assert await asyncio.gather(*taken) == [0, 1, 2]


@in_a_loop
async def test_a_request_whose_worker_is_missed_is_a_suspect_as_well() -> None:
    workers = Workers()
    for _ in range(2):
        sent = workers.send(0, size=7)
        await settle()
        workers.admission.give_up("model")
        with pytest.raises(Rejection, match="was replaced"):
            await sent
        workers.admission.started("model", 1)
        await settle()
    with pytest.raises(Rejection, match="2 workers ended while they had this request"):
        await workers.send(0, size=7)
