"""Report the runs as JSON, a Markdown table and a plot, each with its intervals."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from data_pipeline.files import whole_file, write_whole
from model.ablation import ARMS, Arm

METRICS = {"dice": "Dice", "auc": "AUC of the labels"}


@dataclass(frozen=True)
class Run:
    """Hold the results of one arm and seed, by the names of `TaskScores`.

    scores: scores on the test split.
    bounds: their 95 % intervals over the test images.
    """

    scores: dict[str, float]
    bounds: dict[str, tuple[float, float]]


Runs = dict[str, list[Run]]  # of each finished arm, one a seed


def write_report(runs: Runs, setting: dict[str, Any], output: Path) -> str:
    """Write ablation.json, ablation.md and ablation.png, and return the table."""
    text = f"{_describe(setting)}\n\n{_table(runs)}\n"
    stored = {arm: [asdict(run) for run in finished] for arm, finished in runs.items()}
    write_whole(output / "ablation.json", json.dumps({"setting": setting, "runs": stored}, indent=2) + "\n")
    write_whole(output / "ablation.md", text)
    _plot(runs, output / "ablation.png")
    return text


def scored(arm: Arm, metric: str, runs: Runs) -> list[Run]:
    """Return the arm's runs that have the metric, which is none for a task that the arm does not train."""
    # Its untrained decoder or head has scores as well, which mean nothing.
    trained = arm.segment if metric == "dice" else arm.classify
    return [run for run in runs.get(arm.name, []) if trained and metric in run.bounds]


def _describe(setting: dict[str, Any]) -> str:
    budget = f" (a budget of {setting['budget']:g} minutes for all)" if setting["budget"] else ""
    return (
        f"`{setting['data']}`, preset `{setting['preset']}`, {setting['seeds']} seeds, {setting['train']} training "
        f"images, {setting['epochs']} epochs an arm{budget}; scored on "
        f"{setting['test']} test images. Mean over the seeds; in brackets every seed's 95 % interval over the images."
    )


def _table(runs: Runs) -> str:
    rows = [[arm.title, *(_cell(metric, scored(arm, metric, runs)) for metric in METRICS)] for arm in _trained(runs)]
    lines = [["arm", *METRICS.values()], ["---", "---:", "---:"], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(metric: str, runs: list[Run]) -> str:
    if not runs:
        return ""
    # From the lowest bound of any seed to the highest, so that the brackets hold every seed's interval.
    low, high = (limit(run.bounds[metric][i] for run in runs) for i, limit in enumerate((min, max)))
    return f"{mean(run.scores[metric] for run in runs):.3f} [{low:.3f}, {high:.3f}]"


def _trained(runs: Runs) -> list[Arm]:
    return [arm for arm in ARMS if arm.name in runs]


def _plot(runs: Runs, path: Path) -> None:
    arms = _trained(runs)
    figure = Figure(figsize=(9, 0.4 * len(arms) + 1.2), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, 2, sharey=True), METRICS.items(), strict=True):
        for row, arm in enumerate(arms):
            shown = scored(arm, metric, runs)
            # Drawn half transparent, because the seeds of an arm lie over one another.
            for run in shown:
                axes.plot(run.bounds[metric], [row, row], color="tab:blue", alpha=0.3)
            values = [run.scores[metric] for run in shown]
            axes.plot(values, [row] * len(values), "o", color="tab:blue", alpha=0.5)
            if values:
                axes.plot([mean(values)], [row], "|", color="black", markersize=14)
        axes.set_yticks(range(len(arms)), [arm.title for arm in arms])
        axes.set(title=title, ylim=(len(arms) - 0.5, -0.5))  # the first arm on top
        axes.grid(axis="x", alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
