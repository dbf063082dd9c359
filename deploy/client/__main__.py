"""Send images to a running server, and write an overlay and a mask for each, a result.json and a table."""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from data_pipeline import startup
from data_pipeline.command_line import Output, new_parser, positive, run_command
from data_pipeline.fields import as_line
from data_pipeline.files import drop_unfinished, locked
from data_pipeline.image_header import ImageError
from deploy.access import read_token
from deploy.client.address import DEFAULT_PORTS, proxy_before, read_address
from deploy.client.batch import THREADS, Outcome, process
from deploy.client.client import Client
from deploy.client.dicom import Codes, read_codes
from deploy.client.errors import ClientError
from deploy.client.image import CONTOURS, Failure, Wanted
from deploy.client.measure import Cleaning
from deploy.client.pacs import Pacs, read_uid
from deploy.client.plan import Task, find_files, plan
from deploy.client.summary import Finished, fits, read_results, table, write_result
from deploy.client.transport import Access, Served
from deploy.client.volume import drop_slices
from deploy.contract import Contract

INTERRUPTED = "interrupted: the same command with --resume goes on from here"
# What a crash may cost of a long run.
SECONDS_BETWEEN_RESULTS = 5.0
RETRY_SECONDS = 15.0
# After Ctrl-C, for requests in flight and files that are being written.
GRACE_SECONDS = 1.0
EXAMPLES = """examples:
  python -m deploy.client --output build/answers photo.jpg another.png folder_of_images/
  python -m deploy.client --output build/answers folder_of_images/ --jobs 8 --resume
  python -m deploy.client --output build/answers study/ eye.mhd --dicom --contours geojson
  python -m deploy.client --output build/answers --dicomweb http://localhost:8042/dicom-web --study 1.2.840.1
  python -m deploy.client --output build/answers photo.jpg --protocol http --url server-a:8000 --url server-b:8000
  python -m deploy.client --output build/answers photo.jpg --tls-certificate server.pem --token-file token.txt
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0: every image was answered. 1: at least one was not. 2: misused.
    """
    options = parse_arguments(arguments)
    return run_command(lambda: run(options), ClientError, OSError, ValueError, interrupted=INTERRUPTED)


def run(options: argparse.Namespace) -> int:
    """Send what the options name to the server, and return the exit code."""
    pacs = Pacs(options.dicomweb) if options.dicomweb else None
    connect = connector(options)
    try:
        fetched = fetch(pacs, options, connect) if pacs else []
        files = find_files([*options.images, *fetched], options.output)
        # A misuse rather than a success with nothing done: the folder was probably a wrong one.
        if not files:
            print("error: no images or volumes in the folders named", file=sys.stderr)
            return 2
        served = read_served(connect)
        options.output.mkdir(parents=True, exist_ok=True)
        with locked(options.output) as is_alone:
            if is_alone:
                drop_unfinished(options.output)
            code = process_and_show(options, served, connect, files)
            if pacs:
                store(pacs, fetched, options)
            return code
    except BlockingIOError:
        raise ValueError(f"another run writes into {options.output}: wait for it, or choose another --output") from None
    except KeyboardInterrupt:
        abandon()
        raise


def fetch(pacs: Pacs, options: argparse.Namespace, connect: Callable[[float], Client]) -> list[Path]:
    """Fetch the study that the options name, and return its files."""
    # No patient's images are brought here for a server that is not there.
    read_served(connect)
    return pacs.fetch(options.study, options.output)


def store(pacs: Pacs, fetched: Sequence[Path], options: argparse.Namespace) -> None:
    """Store what was written about fetched images at the server that they came from."""
    results = read_results(options.output, wanted_of(options))
    written = [options.output / name for file in fetched if str(file) in results for name in results[str(file)].dicom]
    pacs.store(written)
    Output(stderr=True).print(f"{len(written)} SEG and SR objects stored")


def read_served(connect: Callable[[float], Client]) -> Served:
    """Ask the server what it serves."""

    def read() -> Served:
        # Without retries: a server that was never there is reported at once, while one that goes away may come back.
        with connect(0.0) as client:
            return client.served()

    # In a thread, as every request: gevent, below the HTTP client, prints lines of its own about a Ctrl-C.
    pool = ThreadPoolExecutor(1, THREADS)
    try:
        return pool.submit(read).result()
    finally:
        pool.shutdown(wait=False)


def connector(options: argparse.Namespace) -> Callable[[float], Client]:
    """Return what makes a client of the server that the options name, given for how many seconds it is to retry."""
    access = Access(options.tls_certificate, read_token(options.token_file) if options.token_file else "")
    urls = options.url or [f"localhost:{DEFAULT_PORTS[options.protocol]}"]
    for url in urls:
        if proxy := proxy_before(read_address(url, options.protocol), options.protocol):
            print(f"{url} is reached through the proxy {proxy}, which the environment names", file=sys.stderr)
    return lambda retry_for: Client(urls, options.protocol, timeout=options.timeout, retry_for=retry_for, access=access)


def process_and_show(
    options: argparse.Namespace, served: Served, connect: Callable[[float], Client], files: Sequence[Path]
) -> int:
    """Process the files that no earlier run has finished, show the progress and return the exit code.

    The result file is written even where the server goes away.
    """
    wanted, contract = wanted_of(options), served.contract
    finished = read_results(options.output, wanted) if options.resume else {}
    if not options.resume:
        drop_slices(options.output)
    # What another model answered is done again: its figures would stand under the names of this one.
    kept = {file: result for file, result in finished.items() if fits(result, served)}
    tasks = plan(files, {file: result.name for file, result in kept.items() if result.name}, options.output)
    open_tasks = [task for task in tasks if not is_finished(task, kept)]
    outcomes: list[Outcome] = [kept[str(task.source)] for task in tasks if is_finished(task, kept)]
    # Of other files, whose results are in the folder too.
    others = [result for file, result in kept.items() if file not in {str(task.source) for task in tasks}]
    # On stderr, so that stdout holds only the results.
    console = Output(stderr=True)
    progress = Progress(console=console, disable=not console.is_terminal)
    bar = progress.add_task("segmenting", total=len(open_tasks))
    written = time.monotonic()
    # The results so far are written where the server goes away, or on Ctrl-C, too: --resume goes on from them.
    try:
        with progress:
            answered = process(
                lambda: connect(RETRY_SECONDS),
                open_tasks,
                options.output,
                options.jobs,
                wanted,
                served,
                lambda share: progress.advance(bar, share),
            )
            for number, outcome in enumerate(answered, 1):
                outcomes.append(outcome)
                progress.update(bar, completed=number)
                report(outcome, console)
                if time.monotonic() - written > SECONDS_BETWEEN_RESULTS:
                    write_result(options.output, contract, wanted, [*others, *outcomes])
                    written = time.monotonic()
    finally:
        write_result(options.output, contract, wanted, [*others, *outcomes])
    return conclude(contract, outcomes, options.output)


def report(outcome: Outcome, console: Console) -> None:
    """Print what a user should know about one file."""
    for line in [outcome.reason] if isinstance(outcome, Failure) else outcome.notes:
        console.print(f"{as_line(outcome.file)}: {line}")


def wanted_of(options: argparse.Namespace) -> Wanted:
    """Return what the options ask to be written for each image.

    Raises ValueError where a package or a table for it is missing.
    """
    if options.dicom and find_spec("highdicom") is None:
        raise ValueError("--dicom needs more packages: pip install 'resformer-deploy[dicom]'")
    return Wanted(
        pixel_mm=options.spacing,
        cleaning=Cleaning(min_area=options.min_area, keep_largest=options.keep == "largest"),
        contours=tuple(sorted(set(options.contours))),
        dicom=options.dicom,
        probabilities=options.probabilities,
        deidentify=options.deidentify,
        codes=read_codes(options.codes) if options.codes else Codes(),
    )


def abandon() -> None:
    """End the process where threads still wait for a server, which Python itself would wait for."""
    give_up = time.monotonic() + GRACE_SECONDS
    # Files that are being written are finished or removed meanwhile.
    while any(thread.name.startswith(THREADS) for thread in threading.enumerate()):
        if time.monotonic() > give_up:
            print(INTERRUPTED, file=sys.stderr, flush=True)
            os._exit(startup.INTERRUPTED)
        time.sleep(0.05)


def is_finished(task: Task, finished: dict[str, Finished]) -> bool:
    """Return whether an earlier run has processed this file, and it has not changed since."""
    result = finished.get(str(task.source))
    try:
        return result is not None and result.stamp == task.stamp
    except (OSError, ImageError):
        # What has become of it is said when it is to be read.
        return False


def conclude(contract: Contract, outcomes: Sequence[Outcome], output: Path) -> int:
    """Print the table and return the exit code."""
    results = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
    console = Output()
    console.print(table(contract, results))
    console.print(f"{len(results)} of {len(outcomes)} images answered; overlays, masks and result.json are in {output}")
    return 0 if len(results) == len(outcomes) else 1


def percent(text: str) -> float:
    """Parse a percentage from 0 to 100."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"must be 0 to 100, got {text}")
    return value


def uid(text: str) -> str:
    """Parse the UID of a study."""
    try:
        return read_uid(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, or exit with 2 where it is wrong."""
    parser = new_parser("deploy.client", __doc__, EXAMPLES)
    parser.add_argument(
        "images",
        nargs="*",
        type=Path,
        metavar="IMAGE",
        help="image (JPEG, PNG, TIFF, DICOM), volume (MetaImage, NIfTI, NRRD, DICOM), or a folder",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where overlays and result.json go")
    parser.add_argument("--protocol", choices=sorted(DEFAULT_PORTS), default="grpc", help="(default: grpc)")
    parser.add_argument(
        "--url", action="append", help="host:port (default: localhost, the protocol's port), repeated to share the work"
    )
    parser.add_argument(
        "--timeout", type=positive(float), default=30.0, metavar="SECONDS", help="for one image (default: 30)"
    )
    parser.add_argument(
        "--spacing",
        type=positive(float),
        metavar="MM",
        help="side of a pixel, for areas in mm² (default: as files say)",
    )
    parser.add_argument(
        "--contours",
        nargs="+",
        choices=sorted(CONTOURS),
        default=(),
        help="also write the outlines of images as polygons",
    )
    parser.add_argument(
        "--min-area", type=percent, default=0.0, metavar="PERCENT", help="of the image: leave out smaller components"
    )
    parser.add_argument("--keep", choices=["largest"], help="leave out all components of a class but the largest")
    parser.add_argument("--dicom", action="store_true", help="also write a SEG and an SR for each DICOM image")
    parser.add_argument("--probabilities", action="store_true", help="with --dicom: a SEG of probabilities")
    parser.add_argument("--deidentify", action="store_true", help="with --dicom: leave out what names the patient")
    parser.add_argument("--codes", type=Path, metavar="FILE", help="with --dicom: JSON table of coded concepts")
    parser.add_argument("--dicomweb", metavar="URL", help="PACS to fetch a study from and to store SEG and SR in")
    parser.add_argument("--study", type=uid, metavar="UID", help="with --dicomweb: which study")
    parser.add_argument("--jobs", type=positive(int), default=4, help="images in flight at once (default: 4)")
    parser.add_argument("--resume", action="store_true", help="skip what a result.json in DIR already answers")
    parser.add_argument(
        "--tls-certificate", type=Path, metavar="FILE", help="PEM file that the server's is checked against"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token that the server asks for")
    options = parser.parse_args(arguments)
    if bool(options.dicomweb) != bool(options.study):
        parser.error("--dicomweb URL and --study UID belong together")
    options.dicom = options.dicom or bool(options.dicomweb)
    if (options.probabilities or options.deidentify or options.codes) and not options.dicom:
        parser.error("--probabilities, --deidentify and --codes belong to --dicom")
    if not options.images and not options.dicomweb:
        parser.error("name at least one IMAGE, or --dicomweb and --study")
    try:
        for url in options.url or ():
            read_address(url, options.protocol)
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    sys.exit(main())
