"""Asks a running server about images: an overlay for each, a result.json, a table."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from deploy.client.batch import Answer, Failure, Outcome, process
from deploy.client.client import Client
from deploy.client.errors import ClientError
from deploy.client.summary import read_answers, table, write_result
from deploy.client.tasks import Task, plan
from deploy.client.transport import Access
from deploy.contract import Contract

DEFAULT_URLS = {"grpc": "localhost:8001", "http": "localhost:8000"}
# What a crash may cost of a long run.
SECONDS_BETWEEN_RESULTS = 5.0
RETRY_SECONDS = 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where every image was answered, 1 where one was not, 2 for usage."""
    options = parse_arguments(arguments)
    tasks = plan(options.images)
    if not tasks:
        print("error: no JPEG, PNG or TIFF files in the folders named", file=sys.stderr)
        return 2
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        finished = read_answers(options.output) if options.resume else {}
        kept = [finished[str(task.source)] for task in tasks if is_finished(task, finished)]
        return run(options, [task for task in tasks if not is_finished(task, finished)], kept)
    except (ClientError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def is_finished(task: Task, finished: dict[str, Answer]) -> bool:
    """Whether an earlier run has answered this file under this name."""
    answer = finished.get(str(task.source))
    return answer is not None and answer.overlay == task.overlay


def run(options: argparse.Namespace, tasks: Sequence[Task], kept: Sequence[Answer]) -> int:
    """Process every task, show how far it is, and leave the result file even where the server goes away."""

    token = options.token_file.read_text().strip() if options.token_file else ""
    access = Access(options.tls_certificate, token)

    def connect(retry_for: float = RETRY_SECONDS) -> Client:
        urls = options.url or [DEFAULT_URLS[options.protocol]]
        return Client(urls, options.protocol, timeout=options.timeout, retry_for=retry_for, access=access)

    # A server that was never there is told at once; one that goes away may come back.
    with connect(retry_for=0.0) as client:
        contract = client.contract
    outcomes: list[Outcome] = list(kept)
    progress = track(
        process(connect, tasks, options.output, options.jobs),
        description="segmenting",
        total=len(tasks),
        console=Console(stderr=True),
        disable=len(tasks) <= 1,
    )
    written = time.monotonic()
    try:
        for outcome in progress:
            outcomes.append(outcome)
            if isinstance(outcome, Failure):
                print(f"{outcome.file}: {outcome.reason}", file=sys.stderr)
            if time.monotonic() - written > SECONDS_BETWEEN_RESULTS:
                write_result(options.output, contract, outcomes)
                written = time.monotonic()
    finally:
        write_result(options.output, contract, outcomes)
    return conclude(contract, outcomes, options.output)


def conclude(contract: Contract, outcomes: Sequence[Outcome], output: Path) -> int:
    """Show the table; the exit code."""
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    Console().print(table(contract, answers))
    print(f"{len(answers)} of {len(outcomes)} images answered; overlays and result.json are in {output}")
    return 0 if len(answers) == len(outcomes) else 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m deploy.client", description=__doc__)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="JPEG, PNG or TIFF file, or a folder")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where overlays and result.json go")
    parser.add_argument("--protocol", choices=sorted(DEFAULT_URLS), default="grpc")
    parser.add_argument(
        "--url", action="append", help="host:port (default: localhost, the protocol's port); several share the work"
    )
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="for one image (default: 30)")
    parser.add_argument("--jobs", type=int, default=4, help="images in flight at once (default: 4)")
    parser.add_argument("--resume", action="store_true", help="skip what a result.json in DIR already answers")
    parser.add_argument("--tls-certificate", type=Path, metavar="FILE", help="PEM; the server's is checked against it")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token that the server asks for")
    options = parser.parse_args(arguments)
    for name in ("timeout", "jobs"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name} must be above 0, got {getattr(options, name)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
