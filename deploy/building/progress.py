"""Show the progress of long steps on the terminal, or nothing at all."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich import get_console
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from deploy.engines import Progress


@contextmanager
def shared_console(*, quiet: bool) -> Iterator[None]:
    """Silence rich's shared console inside the block where `quiet` is True."""
    # NNCF and the generation of data draw their bars on it, and neither can be told not to.
    console = get_console()
    before, console.quiet = console.quiet, console.quiet or quiet
    try:
        yield
    finally:
        console.quiet = before


@contextmanager
def step(console: Console, name: str) -> Iterator[Progress]:
    """Show `name` with the time it takes, and leave one line when the block ends.

    Yields a callable for the phase under way and the share of it that is done.
    """
    start = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[phase]}"), TimeElapsedColumn())
    # In a log file the bar would be a line for every refresh.
    with ProgressBar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        # No total: the bar only pulses until a phase reports a share.
        task = bar.add_task(name, total=None, phase="")

        def report(phase: str, share: float) -> None:
            bar.update(task, total=1.0, completed=share, phase=phase)

        yield report
    console.print(f"{name}: {time.perf_counter() - start:.1f} s", highlight=False)
