"""Do one step in a process of its own: `python -m bench.gpu.worker MODULE:FUNCTION`.

Each row is a line of JSON, written as soon as it is known: what was measured outlives whatever ends the process.
"""

import argparse
import json
import signal
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
    # As Ctrl-C, so that a server that the step has started is stopped, and pytest takes it for no failure of a test.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    deadline = time.monotonic() + options.seconds
    with options.rows.open("w", encoding="utf-8") as file:
        write = writer(file)

        def announce(row: Row) -> None:
            write(row.without_time("cut off", "the step ended while it was prepared or measured"))

        function_of(options.work)(Session(write=write, announce=announce, deadline=deadline))


if __name__ == "__main__":
    main()
