"""Asks a running server about images: an overlay for each, a result.json, a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from deploy.client.api import Client
from deploy.client.batch import Answer, Failure, Outcome, process
from deploy.client.errors import ClientError
from deploy.client.files import Task, plan
from deploy.client.summary import table, write_result

DEFAULT_URLS = {"grpc": "localhost:8001", "http": "localhost:8000"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where every image was answered, 1 where one was not, 2 for usage."""
    options = parse_arguments(arguments)
    tasks = plan(options.images)
    if not tasks:
        print("error: no JPEG, PNG or TIFF files in the folders named", file=sys.stderr)
        return 2
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        with Client(options.url or DEFAULT_URLS[options.protocol], options.protocol, timeout=options.timeout) as client:
            return run(client, tasks, options.output)
    except (ClientError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(client: Client, tasks: Sequence[Task], output: Path) -> int:
    """Process every task, show how far it is, and leave the result file even where the server goes away."""
    contract, outcomes = client.contract, list[Outcome]()
    progress = track(
        process(client, tasks, output),
        description="segmenting",
        total=len(tasks),
        console=Console(stderr=True),
        disable=len(tasks) == 1,
    )
    try:
        for outcome in progress:
            outcomes.append(outcome)
            if isinstance(outcome, Failure):
                print(f"{outcome.file}: {outcome.reason}", file=sys.stderr)
    finally:
        write_result(output, contract, outcomes)
    answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
    Console().print(table(contract, answers))
    print(f"{len(answers)} of {len(tasks)} images answered; overlays and result.json are in {output}")
    return 0 if len(answers) == len(tasks) else 1


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m deploy.client", description=__doc__)
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="JPEG, PNG or TIFF file, or a folder of them"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where overlays and result.json go")
    parser.add_argument("--protocol", choices=sorted(DEFAULT_URLS), default="grpc")
    parser.add_argument("--url", help="host:port of the server (default: localhost and the protocol's usual port)")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="for one image (default: 30)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
