"""Report the runs as JSON, a Markdown table and two plots, with intervals over images and seeds."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_pipeline.files import whole_file, write_whole
from model.ablation import ARMS, Arm
from model.bootstrap import Array, interval, over_seeds
from model.metrics import TaskScores

METRICS = {"dice": "Dice", "auc": "AUC of the labels"}
# The score of each validation that belongs to a score of the test: both choose the best epoch.
VALIDATED = {"dice": "pooled_dice", "auc": "auc"}
LAST_PART = 1 / 3  # of the epochs, whose gain tells how far a run is from its plateau


@dataclass(frozen=True, kw_only=True)
class Run:
    """Hold the results of one arm and seed.

    scores: scores on the test split, by the names of `TaskScores`.
    bounds: their 95 % intervals over the test images.
    resampled: by the names of `METRICS`, the scores under the weights of `bootstrap.resample`, None where undefined.
    validation: by the names of `METRICS`, the validation score of each epoch, or None where it was undefined.
    parameters: number of the network's trained values.
    """

    scores: dict[str, float]
    bounds: dict[str, tuple[float, float]]
    resampled: dict[str, list[float | None]]
    validation: dict[str, list[float | None]]
    parameters: int


Runs = dict[str, list[Run]]  # of each finished arm, one a seed


def score_run(scores: TaskScores, history: Sequence[dict[str, float]], parameters: int) -> Run:
    """Return the results of a run from its scores on the test split and the rows of its epochs."""
    resampled = scores.resampled()
    return Run(
        scores=scores.compute(),
        bounds=scores.bounds(),
        # JSON has no NaN, which draws without a rare label have.
        resampled={
            name: [value if np.isfinite(value) else None for value in resampled[name].tolist()]
            for name in METRICS
            if name in resampled
        },
        validation={name: [row.get(VALIDATED[name]) for row in history] for name in METRICS},
        parameters=parameters,
    )


def write_report(runs: Runs, setting: dict[str, Any], output: Path) -> str:
    """Write ablation.json, ablation.md, ablation.png and validation.png, and return the table."""
    text = f"{_describe(setting)}\n\n{_table(runs, setting['seeds'])}\n"
    stored = {arm: [asdict(run) for run in finished] for arm, finished in runs.items()}
    write_whole(output / "ablation.json", json.dumps({"setting": setting, "runs": stored}, allow_nan=False) + "\n")
    write_whole(output / "ablation.md", text)
    _plot_scores(runs, output / "ablation.png")
    _plot_validation(runs, output / "validation.png")
    return text


def scored(arm: Arm, metric: str, runs: Runs) -> list[Run]:
    """Return the arm's runs that have the metric, which is none for a task that the arm does not train."""
    # Its untrained decoder or head has scores as well, which mean nothing.
    trained = arm.segment if metric == "dice" else arm.classify
    return [run for run in runs.get(arm.name, []) if trained and metric in run.resampled]


def pooled(arm: Arm, metric: str, runs: Runs) -> Array:
    """Return an arm's mean over its seeds under each draw of images and seeds, (R,), or nothing where it has none."""
    drawn = [_draws(run, metric) for run in scored(arm, metric, runs)]
    return over_seeds(drawn) if drawn else np.zeros(0)


def against_base(arm: Arm, metric: str, runs: Runs) -> Array:
    """Return by how much an arm is better than the first one, draw by draw of the same images and seeds."""
    first, own = (scored(each, metric, runs) for each in (ARMS[0], arm))
    # The seeds that both have finished.
    count = min(len(first), len(own)) if arm.name != ARMS[0].name else 0
    if not count:
        return np.zeros(0)
    mine, base = (over_seeds([_draws(run, metric) for run in each[:count]]) for each in (own, first))
    return mine - base


def _draws(run: Run, metric: str) -> Array:
    return np.array(run.resampled[metric], np.float64)


def last_gain(arm: Arm, metric: str, runs: Runs) -> float | None:
    """Return by how much the last third of the epochs raised the best validation score, as the mean over the seeds.

    None where the arm has no such score.
    """
    gains = []
    for run in scored(arm, metric, runs):
        values = np.array([np.nan if value is None else value for value in run.validation[metric]])
        before = values[: len(values) - max(1, round(LAST_PART * len(values)))]
        if np.isfinite(before).any():
            gains.append(float(np.nanmax(values) - np.nanmax(before)))
    return mean(gains) if gains else None


def _describe(setting: dict[str, Any]) -> str:
    budget = f" (a budget of {setting['budget']:g} minutes for all)" if setting["budget"] else ""
    return (
        f"`{setting['data']}`, preset `{setting['preset']}`, {setting['seeds']} seeds, {setting['train']} training "
        f"images, {setting['epochs']} epochs an arm{budget}; scored on {setting['test']} test images. Mean over the "
        "seeds, difference to the first arm, and in brackets their 95 % intervals over resampled images and seeds. The "
        "last gain is that of the best validation score (pooled Dice, AUC) in the last third of the epochs: near 0 "
        "where an arm has arrived."
    )


def _table(runs: Runs, seeds: int) -> str:
    columns = [text for name in METRICS.values() for text in (name, "against the first", "last gain")]
    lines = [["arm", "parameters", *columns], ["---", *["---:"] * (1 + len(columns))]]
    for arm in _trained(runs):
        cells = [cell for metric in METRICS for cell in _cells(arm, metric, runs)]
        finished = len(runs[arm.name])
        title = arm.title if finished == seeds else f"{arm.title} ({finished} of {seeds} seeds so far)"
        lines.append([title, f"{runs[arm.name][0].parameters / 1e6:.2f} M", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(arm: Arm, metric: str, runs: Runs) -> list[str]:
    gain = last_gain(arm, metric, runs)
    own, difference = _cell(pooled(arm, metric, runs), ".3f"), _cell(against_base(arm, metric, runs), "+.3f")
    return [own, difference, "" if gain is None else f"{gain:.3f}"]


def _cell(values: Array, form: str) -> str:
    if not len(values):
        return ""
    value, low, high = (format(number, form) for number in interval(values))
    return f"{value} [{low}, {high}]"


def _trained(runs: Runs) -> list[Arm]:
    return [arm for arm in ARMS if arm.name in runs]


def _plot_scores(runs: Runs, path: Path) -> None:
    arms = _trained(runs)
    figure = Figure(figsize=(9, 0.4 * len(arms) + 1.2), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, 2, sharey=True), METRICS.items(), strict=True):
        for row, arm in enumerate(arms):
            _plot_arm(axes, row, [run.scores[metric] for run in scored(arm, metric, runs)], pooled(arm, metric, runs))
        axes.set_yticks(range(len(arms)), [arm.title for arm in arms])
        axes.set(title=title, ylim=(len(arms) - 0.5, -0.5))  # the first arm on top
        axes.grid(axis="x", alpha=0.3)
    _write(figure, path)


def _plot_arm(axes: Axes, row: int, seeds: list[float], means: Array) -> None:
    """Draw a point for each seed, and their mean with its interval."""
    axes.plot(seeds, [row] * len(seeds), "o", color="tab:blue", alpha=0.5)
    if len(means):
        value, low, high = interval(means)
        axes.plot([low, high], [row, row], color="tab:blue", alpha=0.5)
        axes.plot([value], [row], "|", color="black", markersize=14)


def _plot_validation(runs: Runs, path: Path) -> None:
    """Draw each arm's mean validation scores over the epochs."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, 2), METRICS.items(), strict=True):
        for arm in _trained(runs):
            curves = [run.validation[metric] for run in scored(arm, metric, runs)]
            if curves:
                values = np.array([[np.nan if value is None else value for value in curve] for curve in curves])
                axes.plot(range(1, values.shape[1] + 1), values.mean(axis=0), label=arm.title)
        axes.set(title=f"validation, {'pooled Dice' if metric == 'dice' else title}", xlabel="epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=6)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
