"""Process files some at a time, and yield their outcomes in order."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from deploy.client.client import Client
from deploy.client.image import Failure, FileResult, Wanted, process_file
from deploy.client.plan import Task

THREADS = "deploy-client"  # what the names of the threads that send begin with


Outcome = FileResult | Failure


def process(
    connect: Callable[[], Client], tasks: Iterable[Task], output: Path, jobs: int, wanted: Wanted
) -> Iterator[Outcome]:
    """Process the tasks and yield the outcome of each, in their order.

    A bad file does not stop the others.

    Args:
        connect: makes a client.
        tasks: of any number, of which only a few are in memory at a time.
        output: the folder for results.
        jobs: files in work at once.
        wanted: what is written for each.

    Raises:
        ServerUnavailable: where the server goes away.
        OSError: where `output` cannot be written.
    """
    # One client a thread: over HTTP, threads may not share one.
    own = threading.local()
    clients: list[Client] = []

    def work(task: Task) -> Outcome:
        if not hasattr(own, "client"):
            own.client = connect()
            clients.append(own.client)
        return process_file(own.client, task, output, wanted)

    pool = ThreadPoolExecutor(jobs, THREADS)
    try:
        yield from _in_order(pool, work, tasks, 2 * jobs)
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
    pool: ThreadPoolExecutor, work: Callable[[Task], Outcome], tasks: Iterable[Task], ahead: int
) -> Iterator[Outcome]:
    # Executor.map would submit every task at once and keep every outcome until it is taken.
    waiting: deque[Future[Outcome]] = deque()
    for task in tasks:
        waiting.append(pool.submit(work, task))
        # Tasks are taken as fast as outcomes leave, so that memory does not grow with their number.
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
