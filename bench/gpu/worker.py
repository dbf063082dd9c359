"""Do one step in a process of its own: `python -m bench.gpu.worker MODULE:FUNCTION`.

Each row is a line of JSON, written as soon as it is known: what was measured outlives whatever ends the process.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TextIO

from bench.gpu.session import Row, Session


def function_of(work: str) -> Callable[[Session], None]:
    """Import what does a step, given as MODULE:FUNCTION."""
    module, _, function = work.partition(":")
    found: Callable[[Session], None] = getattr(import_module(module), function)
    return found


def writer(file: TextIO) -> Callable[[Row], None]:
    """Return what writes a row to an open file at once."""

    def write(row: Row) -> None:
        print(json.dumps(row.fields()), file=file, flush=True)

    return write


def main() -> None:
    """Run the step."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.worker", description=__doc__)
    parser.add_argument("work", metavar="MODULE:FUNCTION", help="what does the step")
    parser.add_argument("--seconds", type=float, required=True, help="after which nothing new is begun")
    parser.add_argument("--rows", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    # As an exception, so that a container or a server that the step has started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    begun = time.monotonic()
    with options.rows.open("w") as file:
        function_of(options.work)(Session(write=writer(file), deadline=begun + options.seconds))


if __name__ == "__main__":
    main()
