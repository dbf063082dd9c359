"""Share what every command of this project does alike: its parser, its numbers, its one line for an error."""

import argparse
import sys
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)
INTERRUPTED = 130  # the shell's exit code for a command that Ctrl-C ended


def new_parser(module: str, description: str | None, examples: str = "") -> argparse.ArgumentParser:
    """Make the parser of `python -m MODULE`; the examples stand below the options, as they are written.

    A misuse ends the command with exit code 2 and one line.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def positive(kind: type[Number]) -> Callable[[str], Number]:
    """Make an argparse type for numbers above 0, whole ones for `int`."""

    def parse(text: str) -> Number:
        try:
            number = kind(text)
        except ValueError:
            number = kind(0)
        # NaN compares false with everything, and is refused as well.
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"must be a {'whole ' if kind is int else ''}number above 0, got {text}")
        return number

    return parse


def run_command(action: Callable[[], int | None], *errors: type[Exception], interrupted: str = "interrupted") -> int:
    """Run a command and return its exit code: that of `action`, by default 0.

    errors: the failures that a user can mend, which become one line on stderr and exit code 1; others are faults of
        this project and keep their traceback.
    interrupted: the line that Ctrl-C leaves, with exit code 130.
    """
    try:
        return action() or 0
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
