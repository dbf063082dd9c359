"""Share the parser, the number types and the error handling of this project's commands."""

import argparse
import sys
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)
INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended: 128 + SIGINT


def new_parser(module: str, description: str | None, examples: str = "") -> argparse.ArgumentParser:
    """Return the parser of `python -m MODULE`.

    A misuse ends the command with exit code 2 and one line.

    Args:
        module: full name of the command's module.
        description: first lines of `--help`, usually the module's docstring.
        examples: text below the options, printed with its line breaks.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=examples,
        # The default formatter would join the lines of the examples into one paragraph.
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def positive(kind: type[Number]) -> Callable[[str], Number]:
    """Return an argparse type for finite numbers above 0, whole ones for `int`."""

    def parse(text: str) -> Number:
        try:
            number = kind(text)
        except ValueError:
            # 0 is refused below, so that text and 0 give the same message.
            number = kind(0)
        # NaN compares false with everything and is refused as well.
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"must be a {'whole ' if kind is int else ''}number above 0, got {text}")
        return number

    return parse


def run_command(action: Callable[[], int | None], *errors: type[Exception], interrupted: str = "interrupted") -> int:
    """Run a command and return its exit code: what `action` returns, or 0 for None.

    Args:
        action: the command's work.
        errors: failures that a user can repair. They become one line on stderr and exit code 1. All others are faults
            of this project and keep their traceback.
        interrupted: line on stderr after Ctrl-C, with exit code 130.
    """
    try:
        return action() or 0
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
