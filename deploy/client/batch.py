"""Sends files to the server, some at a time, and writes the overlay of each."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data_pipeline.files import write_whole
from data_pipeline.overlay import areas, draw, fit_mask, open_upright, png
from deploy.client.client import Client
from deploy.client.errors import ClientError, ServerUnavailable
from deploy.client.tasks import Task


@dataclass(frozen=True)
class Answer:
    """What the server said of one file; width and height are the image's own, as EXIF turns it.

    classes: a probability a label.  areas: pixels and percent of the image a segmentation class.
    timings: milliseconds for the request alone and for all of the file.
    """

    file: str
    overlay: str
    width: int
    height: int
    classes: dict[str, float]
    areas: dict[str, dict[str, float]]
    timings: dict[str, float]
    request_id: str


@dataclass(frozen=True)
class Failure:
    """A file that gave no result, and the one line that says why."""

    file: str
    reason: str


Outcome = Answer | Failure


def process(connect: Callable[[], Client], tasks: Iterable[Task], output: Path, jobs: int) -> Iterator[Outcome]:
    """One outcome a task, in order, `jobs` at once, each with a client of its own; a bad file does not stop the others.

    However many the tasks, few are in memory: no more are started than are being worked on or wait to be taken.
    Raises ServerUnavailable where the server goes away, OSError where `output` cannot be written.
    """
    own = threading.local()
    clients: list[Client] = []

    def work(task: Task) -> Outcome:
        if not hasattr(own, "client"):
            own.client = connect()
            clients.append(own.client)
        return process_file(own.client, task, output)

    pool = ThreadPoolExecutor(jobs)
    try:
        yield from _in_order(pool, work, tasks, 2 * jobs)
    finally:
        pool.shutdown(cancel_futures=True)
        for client in clients:
            client.close()


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Task], Outcome], tasks: Iterable[Task], ahead: int
) -> Iterator[Outcome]:
    waiting: deque[Future[Outcome]] = deque()
    for task in tasks:
        waiting.append(pool.submit(work, task))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def process_file(client: Client, task: Task, output: Path) -> Outcome:
    """Read, send, draw and write one file."""
    start = time.perf_counter()
    try:
        data = task.source.read_bytes()
        result = client.segment(data)
        image = open_upright(data)
    except ServerUnavailable:
        raise
    except (ClientError, OSError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Failure(str(task.source), reason)
    mask = fit_mask(result.mask, image.size)
    write_whole(output / task.overlay, png(draw(image, mask)))
    return Answer(
        file=str(task.source),
        overlay=task.overlay,
        width=image.width,
        height=image.height,
        classes=result.class_probabilities,
        areas=areas(mask, result.seg_classes),
        timings={"request_ms": milliseconds(result.seconds), "total_ms": milliseconds(time.perf_counter() - start)},
        request_id=result.request_id,
    )


def milliseconds(seconds: float) -> float:
    """Seconds as milliseconds to two places."""
    return round(seconds * 1e3, 2)
