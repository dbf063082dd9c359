"""Process files some at a time, and yield their outcomes in order."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from data_pipeline.dicom import Frame, frame_png
from data_pipeline.dicom.file import quiet
from data_pipeline.volume_file import is_volume
from deploy.client.client import Client, Result
from deploy.client.image import Failure, FileResult, Wanted, process_file, segment
from deploy.client.picture import Claims
from deploy.client.plan import Task
from deploy.client.transport import Served
from deploy.client.volume import VolumeResult, process_volume

Item = TypeVar("Item")
Answer = TypeVar("Answer")
THREADS = "deploy-client"  # what the names of the threads that send begin with


Outcome = FileResult | VolumeResult | Failure


def process(
    connect: Callable[[], Client],
    tasks: Iterable[Task],
    output: Path,
    jobs: int,
    wanted: Wanted,
    served: Served,
    advance: Callable[[float], None],
) -> Iterator[Outcome]:
    """Process the tasks and yield the outcome of each, in their order.

    A bad file does not stop the others.

    Args:
        connect: makes a client.
        tasks: of any number, of which only a few are in memory at a time.
        output: the folder for results.
        jobs: files, or slices of one volume, in work at once.
        wanted: what is written for each.
        served: what answers.
        advance: called with the share of a volume that is done since the last call.

    Raises:
        ServerUnavailable: where the server goes away.
        OSError: where `output` cannot be written.
    """
    # One client a thread: over HTTP, threads may not share one.
    own, claims = threading.local(), Claims()
    clients: list[Client] = []

    def client() -> Client:
        if not hasattr(own, "client"):
            own.client = connect()
            clients.append(own.client)
        opened: Client = own.client
        return opened

    def work(task: Task) -> Outcome:
        return process_file(client(), task, output, wanted, claims)

    def answer(frame: Frame) -> Result:
        return segment(client(), frame_png(frame, client().contract.preprocessing.white_level))

    pool = ThreadPoolExecutor(jobs, THREADS)
    try:
        # A header may name a patient, and what reads it prints values that it does not like.
        with quiet():
            for of_volumes, group in groupby(tasks, lambda task: is_volume(task.source)):
                if of_volumes:
                    # One after the other, so that memory holds one of them. Its slices share the threads.
                    ask = partial(_in_order, pool, answer, ahead=jobs)
                    yield from (process_volume(ask, task, output, wanted, served, claims, advance) for task in group)
                else:
                    yield from _in_order(pool, work, group, ahead=2 * jobs)
    except (KeyboardInterrupt, GeneratorExit):
        # Nobody who has pressed Ctrl-C waits for the requests in flight.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        _close(pool, clients)
        raise
    _close(pool, clients)


def _close(pool: ThreadPoolExecutor, clients: Iterable[Client]) -> None:
    # The clients are closed only after the last thread that uses one has ended.
    pool.shutdown(cancel_futures=True)
    for client in clients:
        client.close()


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Answer], items: Iterable[Item], *, ahead: int
) -> Iterator[Answer]:
    # Executor.map would submit every task at once and keep every outcome until it is taken.
    waiting: deque[Future[Answer]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        # Items are taken as fast as outcomes leave, so that memory does not grow with their number.
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
