"""What a run writes about its epochs: history.csv, curves.png and TensorBoard's event files."""

import csv
import io
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch.utils.tensorboard import SummaryWriter

from data_pipeline.files import write_whole

Row = dict[str, float]
CURVES = ("loss", "dice", "auc")


def write_history(rows: list[Row], output: Path) -> None:
    """All three, for the epochs so far: `epoch`, `loss` and the validation scores of each."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(output / "history.csv", text.getvalue())
    _draw_curves(rows, output / "curves.png")
    with SummaryWriter(str(output / "tensorboard")) as events:
        for name in columns[1:]:
            if name in rows[-1]:
                events.add_scalar(name, rows[-1][name], int(rows[-1]["epoch"]))


def _draw_curves(rows: list[Row], path: Path) -> None:
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=110)
