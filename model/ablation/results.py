"""What came out: JSON, a Markdown table and a plot, each with its intervals."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from data_pipeline.files import write_whole
from model.ablation.arms import ARMS, Arm

METRICS = {"dice": "Dice", "auc": "AUC of the labels"}


@dataclass(frozen=True)
class Run:
    """Test scores of one arm and seed, and their 95 % intervals over the test images, by the names of `TaskScores`."""

    scores: dict[str, float]
    bounds: dict[str, tuple[float, float]]


Runs = dict[str, list[Run]]  # of each finished arm, one a seed


def write_report(runs: Runs, setting: dict[str, Any], output: Path) -> str:
    """Write ablation.json, ablation.md and ablation.png; returns the table."""
    text = f"{_describe(setting)}\n\n{_table(runs)}\n"
    stored = {arm: [asdict(run) for run in found] for arm, found in runs.items()}
    write_whole(output / "ablation.json", json.dumps({"setting": setting, "runs": stored}, indent=2) + "\n")
    write_whole(output / "ablation.md", text)
    _plot(runs, output / "ablation.png")
    return text


def scored(arm: Arm, metric: str, runs: Runs) -> list[Run]:
    """The arm's runs that have the metric; none of a task that the arm does not train."""
    trained = arm.segment if metric == "dice" else arm.classify
    return [run for run in runs.get(arm.name, []) if trained and metric in run.bounds]


def _describe(setting: dict[str, Any]) -> str:
    return (
        f"`{setting['data']}`, preset `{setting['preset']}`, {setting['seeds']} seeds, {setting['train']} training "
        f"images, {setting['epochs']} epochs an arm (a budget of {setting['budget']:g} minutes for all); scored on "
        f"{setting['test']} test images. Mean over the seeds; in brackets every seed's 95 % interval over the images."
    )


def _table(runs: Runs) -> str:
    rows = [[arm.title, *(_cell(metric, scored(arm, metric, runs)) for metric in METRICS)] for arm in ARMS]
    lines = [["arm", *METRICS.values()], ["---", "---:", "---:"], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(metric: str, runs: list[Run]) -> str:
    if not runs:
        return ""
    low, high = (limit(run.bounds[metric][i] for run in runs) for i, limit in enumerate((min, max)))
    return f"{mean(run.scores[metric] for run in runs):.3f} [{low:.3f}, {high:.3f}]"


def _plot(runs: Runs, path: Path) -> None:
    figure = Figure(figsize=(9, 0.4 * len(ARMS) + 1), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, 2, sharey=True), METRICS.items(), strict=True):
        for row, arm in enumerate(ARMS):
            shown = scored(arm, metric, runs)
            for run in shown:
                axes.plot(run.bounds[metric], [row, row], color="tab:blue", alpha=0.3)
            found = [run.scores[metric] for run in shown]
            axes.plot(found, [row] * len(found), "o", color="tab:blue", alpha=0.5)
            if found:
                axes.plot([mean(found)], [row], "|", color="black", markersize=14)
        axes.set_yticks(range(len(ARMS)), [arm.title for arm in ARMS])
        axes.set(title=title, ylim=(len(ARMS) - 0.5, -0.5))  # the first arm on top
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
