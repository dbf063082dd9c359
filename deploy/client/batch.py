"""Send files to the server, some at a time, and write the overlay of each."""

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
from deploy.client.client import Client, Result
from deploy.client.errors import AccessDenied, ClientError, ServerFault, ServerUnavailable
from deploy.client.plan import Task, read_regular
from deploy.contract import sample_image

THREADS = "deploy-client"  # what the names of the threads that send begin with


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """Hold what the server computed for one file, as `result.json` keeps it.

    file: the image's path.
    overlay: name of its overlay in the output folder.
    width: of the image in pixels, turned as its EXIF says.
    height: of the same.
    classes: the probability of each label.
    areas: pixels and percent of the image that each segmentation class covers.
    timings: milliseconds for the request alone and for all of the file.
    request_id: what the server's log calls the request.
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
    """Name a file that gave no result, with the reason in one line."""

    file: str
    reason: str


Outcome = FileResult | Failure


def process(connect: Callable[[], Client], tasks: Iterable[Task], output: Path, jobs: int) -> Iterator[Outcome]:
    """Process the tasks and yield the outcome of each, in their order.

    A bad file does not stop the others.

    Args:
        connect: makes a client.
        tasks: of any number, of which only a few are in memory at a time.
        output: the folder for overlays.
        jobs: files in work at once.

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
        return process_file(own.client, task, output)

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


def process_file(client: Client, task: Task, output: Path) -> Outcome:
    """Read, send, draw and write one file."""
    start = time.perf_counter()
    try:
        data = read_regular(task.source)
        # Sent before it is decoded here: of a bad image, the server's reason is the one to report.
        result = segment(client, data)
        image = open_upright(data)
    # No fault of this file: the whole run ends, and --resume goes on from there.
    except (ServerUnavailable, AccessDenied):
        raise
    except (ClientError, OSError, Image.DecompressionBombError) as error:
        # The text of an OSError repeats the path, which the failure's line begins with.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Failure(str(task.source), reason)
    # The mask covers the network's square view, and is stretched back to the image's own size.
    mask = fit_mask(result.mask, image.size)
    write_whole(output / task.overlay, png(draw(image, mask)))
    return FileResult(
        file=str(task.source),
        overlay=task.overlay,
        width=image.width,
        height=image.height,
        classes=result.class_probabilities,
        areas=areas(mask, result.seg_classes),
        timings={"request_ms": milliseconds(result.seconds), "total_ms": milliseconds(time.perf_counter() - start)},
        request_id=result.request_id,
    )


def segment(client: Client, data: bytes) -> Result:
    """Return the answer for one image.

    Raises ServerFault where the server has gone down with this image twice, and answers for another one.
    """
    try:
        return client.segment(data)
    except ServerUnavailable:
        # Of a server that is gone for any image.
        client.segment(sample_image())
    try:
        # Another image, sent at the same time, may have been the one.
        return client.segment(data)
    except ServerUnavailable as error:
        client.segment(sample_image())
        raise ServerFault(f"the server goes down with this image, and answers for others ({error})") from None


def milliseconds(seconds: float) -> float:
    """Return seconds as milliseconds, rounded to two places."""
    return round(seconds * 1e3, 2)
