"""Send images to a running server, and write an overlay for each, a result.json and a table."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.progress import track

from data_pipeline.command_line import Output, new_parser, positive, run_command
from data_pipeline.fields import as_line
from deploy.client.batch import Failure, FileResult, Outcome, Task, plan, process
from deploy.client.client import Client
from deploy.client.errors import ClientError
from deploy.client.summary import read_results, table, write_result
from deploy.client.transport import Access
from deploy.contract import Contract

DEFAULT_URLS = {"grpc": "localhost:8001", "http": "localhost:8000"}
# What a crash may cost of a long run.
SECONDS_BETWEEN_RESULTS = 5.0
RETRY_SECONDS = 15.0
EXAMPLES = """examples:
  python -m deploy.client --output build/answers photo.jpg another.png folder_of_images/
  python -m deploy.client --output build/answers folder_of_images/ --jobs 8 --resume
  python -m deploy.client --output build/answers photo.jpg --protocol http --url server-a:8000 --url server-b:8000
  python -m deploy.client --output build/answers photo.jpg --tls-certificate server.pem --token-file token.txt
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0: every image was answered. 1: at least one was not. 2: misused.
    """
    options = parse_arguments(arguments)
    tasks = plan(options.images)
    # A misuse rather than a success with nothing done: the folder was probably a wrong one.
    if not tasks:
        print("error: no JPEG, PNG or TIFF files in the folders named", file=sys.stderr)
        return 2
    return run_command(lambda: run(options, tasks), ClientError, OSError, ValueError)


def run(options: argparse.Namespace, tasks: Sequence[Task]) -> int:
    """Process the tasks that no earlier run has finished, and return the exit code."""
    options.output.mkdir(parents=True, exist_ok=True)
    finished = read_results(options.output) if options.resume else {}
    kept = [finished[str(task.source)] for task in tasks if is_finished(task, finished)]
    return process_and_show(options, [task for task in tasks if not is_finished(task, finished)], kept)


def is_finished(task: Task, finished: dict[str, FileResult]) -> bool:
    """Return whether an earlier run has processed this file, with an overlay of this name."""
    result = finished.get(str(task.source))
    return result is not None and result.overlay == task.overlay


def process_and_show(options: argparse.Namespace, tasks: Sequence[Task], kept: Sequence[FileResult]) -> int:
    """Process every task, show the progress, and write the result file even where the server goes away."""
    token = options.token_file.read_text().strip() if options.token_file else ""
    access = Access(options.tls_certificate, token)

    def connect(retry_for: float = RETRY_SECONDS) -> Client:
        urls = options.url or [DEFAULT_URLS[options.protocol]]
        return Client(urls, options.protocol, timeout=options.timeout, retry_for=retry_for, access=access)

    # Without retries: a server that was never there is reported at once, while one that goes away may come back.
    with connect(retry_for=0.0) as client:
        contract = client.contract
    outcomes: list[Outcome] = list(kept)
    console = Output(stderr=True)
    progress = track(
        process(connect, tasks, options.output, options.jobs),
        description="segmenting",
        total=len(tasks),
        # On stderr, so that stdout holds only the results.
        console=console,
        disable=len(tasks) <= 1 or not console.is_terminal,
    )
    written = time.monotonic()
    # The results so far are written where the server goes away, or on Ctrl-C, too: --resume goes on from them.
    try:
        for outcome in progress:
            outcomes.append(outcome)
            if isinstance(outcome, Failure):
                print(f"{as_line(outcome.file)}: {outcome.reason}", file=sys.stderr)
            if time.monotonic() - written > SECONDS_BETWEEN_RESULTS:
                write_result(options.output, contract, outcomes)
                written = time.monotonic()
    finally:
        write_result(options.output, contract, outcomes)
    return conclude(contract, outcomes, options.output)


def conclude(contract: Contract, outcomes: Sequence[Outcome], output: Path) -> int:
    """Print the table and return the exit code."""
    results = [outcome for outcome in outcomes if isinstance(outcome, FileResult)]
    console = Output()
    console.print(table(contract, results))
    console.print(f"{len(results)} of {len(outcomes)} images answered; overlays and result.json are in {output}")
    return 0 if len(results) == len(outcomes) else 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, or exit with 2 where it is wrong."""
    parser = new_parser("deploy.client", __doc__, EXAMPLES)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="JPEG, PNG or TIFF file, or a folder")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where overlays and result.json go")
    parser.add_argument("--protocol", choices=sorted(DEFAULT_URLS), default="grpc", help="(default: grpc)")
    parser.add_argument(
        "--url", action="append", help="host:port (default: localhost, the protocol's port), repeated to share the work"
    )
    parser.add_argument(
        "--timeout", type=positive(float), default=30.0, metavar="SECONDS", help="for one image (default: 30)"
    )
    parser.add_argument("--jobs", type=positive(int), default=4, help="images in flight at once (default: 4)")
    parser.add_argument("--resume", action="store_true", help="skip what a result.json in DIR already answers")
    parser.add_argument(
        "--tls-certificate", type=Path, metavar="FILE", help="PEM file that the server's is checked against"
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token that the server asks for")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
