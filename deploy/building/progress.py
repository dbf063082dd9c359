"""Progress of long steps on the terminal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deploy.engines.base import Progress as Report


@contextmanager
def step(console: Console, name: str) -> Iterator[Report]:
    """Show `name` with the time it takes; yields a callable for (phase, share done), and leaves one line when done."""
    start = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[phase]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None, phase="")

        def report(phase: str, share: float) -> None:
            bar.update(task, total=1.0, completed=share, phase=phase)

        yield report
    console.print(f"{name}: {time.perf_counter() - start:.1f} s", highlight=False)
