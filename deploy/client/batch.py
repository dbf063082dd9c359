"""Send files to the server, some at a time, and write the overlay of each."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data_pipeline.fields import as_line
from data_pipeline.files import write_whole
from data_pipeline.overlay import areas, draw, fit_mask, open_upright, png
from deploy.client.client import Client
from deploy.client.errors import ClientError, ServerUnavailable

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})
# Of an image's name in its overlay's. File systems take 255, and a number, the ending and a temporary name add some.
LONGEST_STEM_BYTES = 200


@dataclass(frozen=True)
class Task:
    """Name one image file and its overlay in the output folder."""

    source: Path
    overlay: str


def plan(arguments: Iterable[Path]) -> list[Task]:
    """Make a task for each file named and for each image below each folder named, in order, each file once.

    An overlay is named after its image. Where two images share a stem, the later one gets a number.
    """
    taken: set[str] = set()
    return [Task(source, _free_name(_shortened(source.stem), taken)) for source in _unique(_expanded(arguments))]


def _expanded(arguments: Iterable[Path]) -> Iterator[Path]:
    for argument in arguments:
        if argument.is_dir():
            # Sorted, so that --resume gives every image the overlay's name of the earlier run.
            yield from sorted(file for file in argument.rglob("*") if file.suffix.lower() in SUFFIXES)
        else:
            # A file that was named is sent with any suffix: the server decides what it is.
            yield argument


def _unique(files: Iterable[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for file in files:
        # Resolved, since one file may be named itself and lie in a folder that is named.
        if file.resolve() not in seen:
            seen.add(file.resolve())
            yield file


def _shortened(stem: str) -> str:
    # Counted in bytes, as file systems do. A character that the limit cuts in two is left out.
    return as_line(stem).encode()[:LONGEST_STEM_BYTES].decode(errors="ignore")


def _free_name(stem: str, taken: set[str]) -> str:
    # Compared without case, since some file systems do not tell A.png from a.png.
    name, number = stem, 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.casefold())
    return f"{name}.overlay.png"


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

    pool = ThreadPoolExecutor(jobs)
    try:
        yield from _in_order(pool, work, tasks, 2 * jobs)
    finally:
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
        data = task.source.read_bytes()
        # Sent before it is decoded here: of a bad image, the server's reason is the one to report.
        result = client.segment(data)
        image = open_upright(data)
    # No fault of this file: the whole run ends, and --resume goes on from there.
    except ServerUnavailable:
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


def milliseconds(seconds: float) -> float:
    """Return seconds as milliseconds, rounded to two places."""
    return round(seconds * 1e3, 2)
