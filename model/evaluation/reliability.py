"""Plot how well label probabilities are calibrated."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from data_pipeline.fields import as_line
from data_pipeline.files import whole_file
from model.bootstrap import Array, in_bins
from model.calibration import Calibration, with_temperature

MOST_PANELS = 8  # of labels: more would be too small to read
MOST_CHARACTERS = 24  # of a title
Z = 1.96  # standard deviations to either side that hold 95 %


def draw_reliability(
    probs: Array, target: NDArray[np.bool_], names: Sequence[str], calibration: Calibration | None, path: Path
) -> None:
    """Plot the share of images with a label against its mean probability, in each of the ECE's bins.

    One panel is of all labels together, and one of each of the first `MOST_PANELS`.

    Args:
        probs: (N, C).
        target: (N, C).
        names: of the labels.
        calibration: shows the probabilities before it as well.
        path: PNG file to write.
    """
    before = with_temperature(probs, 1 / np.array(calibration.temperatures)) if calibration else None
    shown = names[:MOST_PANELS]
    figure = Figure(figsize=(2.6 * (len(shown) + 1), 3.1), layout="constrained")
    panels = figure.subplots(1, len(shown) + 1, sharex=True, sharey=True)
    for number, (axes, name) in enumerate(zip(panels, ("all labels", *shown), strict=True)):
        columns = slice(None) if number == 0 else slice(number - 1, number)
        axes.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--")
        if before is not None:
            _points(axes, before[:, columns], target[:, columns], "tab:orange", "as trained")
        _points(axes, probs[:, columns], target[:, columns], "tab:blue", "calibrated" if calibration else "")
        axes.set_title(_title(name), fontsize="medium")
        axes.set(xlabel="predicted", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    panels[0].set_ylabel("share with the label")
    if calibration:
        panels[0].legend(fontsize="small", frameon=False)
    with whole_file(path) as temporary, warnings.catch_warnings():
        # A name may hold characters that the font lacks, which then are boxes.
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(temporary, format="png", dpi=110)


def _title(name: str) -> str:
    line = as_line(name)
    short = line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 1]}…"
    # It would begin a formula.
    return short.replace("$", r"\$")


def _points(axes: Axes, probs: Array, target: NDArray[np.bool_], colour: str, label: str) -> None:
    """Plot one point a bin, the larger the more images it holds, with the share's 95 % interval after Wilson."""
    column, positive = probs.reshape(-1), target.reshape(-1)
    members = in_bins(column)
    counts = members.sum(axis=0)
    filled = counts > 0
    counts = counts[filled]
    predicted, share = ((values @ members)[filled] / counts for values in (column, positive.astype(np.float64)))
    middle = (share + Z**2 / (2 * counts)) / (1 + Z**2 / counts)
    half = Z / (1 + Z**2 / counts) * np.sqrt(share * (1 - share) / counts + (Z / (2 * counts)) ** 2)
    axes.vlines(predicted, middle - half, middle + half, color=colour, linewidth=1, alpha=0.5)
    # Areas as the counts are, from one that can still be seen. Whole at the panel's edge, where most points are.
    sizes = 8 + 150 * counts / len(column)
    axes.scatter(predicted, share, s=sizes, color=colour, alpha=0.7, label=label, clip_on=False, zorder=3)
