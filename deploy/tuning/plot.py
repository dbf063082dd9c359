"""Show what was measured: a table for the terminal, and throughput against the 99th percentile as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from data_pipeline.files import whole_file
from deploy.server.options import Workers
from deploy.tuning import Point


def table(points: Sequence[Point], chosen: Mapping[str, Workers]) -> Table:
    """Make a table with a row for each choice and number of callers, and name what each choice was chosen as."""
    rows = Table("workers", "threads", "callers", "answers/s", "p50 ms", "p99 ms", "")
    for point in sorted(points, key=lambda point: (point.workers, point.threads, point.callers)):
        names = [name for name, choice in chosen.items() if choice == point.choice and point.callers == 1]
        figures = (f"{point.rate:.1f}", f"{point.p50_ms:.1f}", f"{point.p99_ms:.1f}")
        rows.add_row(str(point.workers), str(point.threads), str(point.callers), *figures, ", ".join(names))
    return rows


def plot(points: Sequence[Point], chosen: Workers, p99_ms: float | None, title: str, path: Path) -> None:
    """Draw a line of rising callers for each choice, with the chosen one bold, and write a PNG file."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for choice in sorted({point.choice for point in points}, key=lambda one: (one.workers, one.threads)):
        line = sorted((point for point in points if point.choice == choice), key=lambda point: point.callers)
        rates, times = [point.rate for point in line], [point.p99_ms for point in line]
        axes.plot(rates, times, marker="o", linewidth=3 if choice == chosen else 1, label=str(choice))
        for point in line:
            axes.annotate(str(point.callers), (point.rate, point.p99_ms), (4, 4), textcoords="offset points", size=7)
    if p99_ms is not None:
        axes.axhline(p99_ms, color="grey", linestyle="--", label=f"limit of {p99_ms:g} ms")
    axes.set(xlabel="answers a second", ylabel="99th percentile [ms]", title=title, xlim=(0, None), ylim=(0, None))
    axes.legend(title="number at a point: callers", fontsize=8, title_fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
