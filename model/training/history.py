"""Write what is known of the epochs: history.csv, curves.png and TensorBoard's event files."""

import csv
import io
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch.utils.tensorboard import SummaryWriter

from data_pipeline.files import whole_file, write_whole

Row = dict[str, float]
CURVES = ("loss", "dice", "auc")


def write_history(rows: list[Row], output: Path) -> None:
    """Write all three for the epochs so far, of which each row has `epoch`, `loss` and the validation scores."""
    # A score that an epoch leaves undefined is missing from its row, so that no single row has all the columns.
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(output / "history.csv", text.getvalue())
    _draw_curves(rows, output / "curves.png")
    # Event files are only ever added: those of earlier epochs are there, also when the run was resumed.
    with SummaryWriter(str(output / "tensorboard")) as events:
        for name in columns[1:]:
            if name in rows[-1]:
                events.add_scalar(name, rows[-1][name], int(rows[-1]["epoch"]))


def _draw_curves(rows: list[Row], path: Path) -> None:
    # `Figure` and not pyplot, which would keep every figure alive and may want a display.
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    loss, scores = figure.subplots(1, 2)
    for name in CURVES:
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        if points:
            (loss if name == "loss" else scores).plot(*zip(*points, strict=True), marker=".", label=name)
    loss.set(title="training loss", xlabel="epoch")
    scores.set(title="validation", xlabel="epoch", ylim=(0, 1))
    scores.legend()
    for axes in (loss, scores):
        # Of a few epochs matplotlib would mark halves.
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
