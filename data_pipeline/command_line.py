"""Share the parser, the number types, the output and the error handling of this project's commands."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import rich
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from data_pipeline.fields import as_line
from data_pipeline.spec import SIXTEEN_BITS
from data_pipeline.startup import INTERRUPTED, SCRIPTS, interruptible

Number = TypeVar("Number", int, float)
BROKEN_PIPE = 141  # what a shell reports for a command whose reader has gone: 128 + SIGPIPE
UNLIMITED = 100_000  # columns where no terminal sets a limit
LARGEST_SEED = 2**32 - 1  # what every library takes
LARGEST_SIDE = 4096  # of an image that a command makes, in pixels: four times that of the largest network
MOST_THREADS = 1024


class Output(Console):
    """Print lines as they are and tables to fit a terminal, and both in full where the output is a file or a pipe."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr)
        if not self.is_terminal:
            self.width = UNLIMITED
            # The bars of libraries, and of generated data, are drawn on the shared console.
            rich.get_console().quiet = True

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `Console.print` does, lines without markup and tables without anything cut."""
        if any(isinstance(one, Table) for one in objects):
            objects = tuple(part for one in objects for part in (self._whole(one) if isinstance(one, Table) else [one]))
            super().print(*objects, sep="\n", highlight=False, **options)
        else:
            # Names and paths may hold brackets and colons. Wrapped by the terminal itself, they can be copied whole.
            plain = {"soft_wrap": True, "markup": False, "highlight": False, "emoji": False}
            super().print(*objects, **(plain | options if all(isinstance(one, str) for one in objects) else options))

    def on_broken_pipe(self) -> None:
        """Leave it to `run_command` that a reader has gone, which Rich would report as a failure of the command."""
        raise BrokenPipeError

    def _whole(self, table: Table) -> list[Any]:
        """Return a table for a terminal, or for a file or a pipe its title, bare columns and caption."""
        least = Measurement.get(self, self.options.update(width=UNLIMITED), table).minimum
        if self.is_terminal and least <= self.width:
            for column in table.columns:
                # Else rich shrinks the widest column first, even one of single words, which it then cuts.
                column.no_wrap = not any(" " in _words(cell) for cell in (column.header, *column.cells))
            return [table]
        # Folded into narrow columns, numbers would be broken over two lines.
        rows = [table] if not self.is_terminal else _as_lines(table)
        parts = [table.title, *rows, table.caption]
        table.title = table.caption = table.box = None
        table.pad_edge = False
        return [part for part in parts if part]


def _as_lines(table: Table) -> list[str]:
    """Return a line for each row, which names the columns."""
    names, *rows = zip(*(map(_words, (column.header, *column.cells)) for column in table.columns), strict=True)
    lines = []
    for first, *cells in rows:
        figures = ", ".join(f"{name} {cell}" for name, cell in zip(names[1:], cells, strict=True) if cell)
        lines.append(escape(f"{first}: {figures}"))
    return lines


def _words(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else Text.from_markup(cell).plain


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of the examples, and say every option's default where its help does not."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.help or ""
        # A flag is off by default, and an option without a value means what its help says.
        silent = action.nargs == 0 or action.required or action.default in (None, argparse.SUPPRESS)
        return said if silent or "default" in said or not action.option_strings else f"{said} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """Answer a misuse in one line."""

    def error(self, message: str) -> NoReturn:
        """End the process with exit code 2 and the message, without the usage in front of it."""
        self.exit(2, f"error: {message}; {self.prog} --help lists the options\n")


def new_parser(module: str, description: str | None, examples: str = "") -> argparse.ArgumentParser:
    """Return the parser of `python -m MODULE`.

    A misuse ends the command with exit code 2 and one line.

    Args:
        module: full name of the command's module.
        description: first lines of `--help`, usually the module's docstring.
        examples: text below the options, printed with its line breaks.
    """
    script = Path(sys.argv[0]).name
    return Parser(
        # Named as it was called.
        prog=script if SCRIPTS.get(script) == module else f"python -m {module}",
        description=description,
        epilog=examples,
        formatter_class=HelpFormatter,
    )


def positive(kind: type[Number], most: Number | None = None) -> Callable[[str], Number]:
    """Return an argparse type for finite numbers above 0 and up to `most`, whole ones for `int`."""

    def parse(text: str) -> Number:
        try:
            number = kind(text)
        except ValueError:
            # 0 is refused below, so that text and 0 give the same message.
            number = kind(0)
        # NaN compares false with everything and is refused as well.
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"must be a {'whole ' if kind is int else ''}number above 0, got {text}")
        if most is not None and number > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, got {text}")
        return number

    return parse


def share(text: str) -> float:
    """Parse a share of a whole, 0 to below 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    # NaN compares false with everything and is refused as well.
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to below 1, got {text}")
    return number


def seed(text: str) -> int:
    """Parse the seed of random numbers, 0 to 2**32 - 1."""
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {LARGEST_SEED}, got {text}")
    return int(text)


def white_level(text: str) -> int:
    """Parse the white level of files of 16 bits: a level that these hold and 8 bits do not."""
    if not text.isdecimal() or not 255 < int(text) <= SIXTEEN_BITS:
        raise argparse.ArgumentTypeError(f"must be 256 to {SIXTEEN_BITS}, got {text}")
    return int(text)


def run_command(
    action: Callable[[], int | None],
    *errors: type[Exception],
    interrupted: str | Callable[[], str] = "interrupted",
) -> int:
    """Run a command and return its exit code: what `action` returns, or 0 for None.

    Args:
        action: the command's work.
        errors: failures that a user can repair. They become one line on stderr and exit code 1. All others are faults
            of this project and keep their traceback.
        interrupted: line on stderr after Ctrl-C, with exit code 130, or what makes it then.
    """
    try:
        with interruptible():
            code = action() or 0
        # Here, so that a reader who is gone shows now and not in Python's own last words.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except errors as error:
        # A file's name, which may hold a terminal's escape, is part of many messages.
        print("error:", "\n".join(map(as_line, str(error).split("\n"))), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted if isinstance(interrupted, str) else interrupted(), file=sys.stderr)
        return INTERRUPTED
