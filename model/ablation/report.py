"""What came out: JSON, a Markdown table and a plot, each with the spread over the seeds."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from data_pipeline.records import write_whole
from model.ablation.arms import ARMS, Arm

METRICS = {"dice": "Dice", "auc": "AUC of the labels"}
Scores = dict[str, list[dict[str, float]]]  # of each finished arm, one dictionary a seed


def write_report(scores: Scores, setting: dict[str, Any], output: Path) -> str:
    """Write ablation.json, ablation.md and ablation.png; returns the table."""
    text = f"{_describe(setting)}\n\n{_table(scores)}\n"
    write_whole(output / "ablation.json", json.dumps({"setting": setting, "scores": scores}, indent=2) + "\n")
    write_whole(output / "ablation.md", text)
    _plot(scores, output / "ablation.png")
    return text


def values(arm: Arm, metric: str, scores: Scores) -> list[float]:
    """One a seed; none of a task that the arm does not train."""
    trained = arm.segment if metric == "dice" else arm.classify
    return [run[metric] for run in scores.get(arm.name, []) if trained and metric in run]


def _describe(setting: dict[str, Any]) -> str:
    return (
        f"`{setting['data']}`, preset `{setting['preset']}`, {setting['seeds']} seeds, {setting['train']} training "
        f"images, {setting['epochs']} epochs an arm (a budget of {setting['budget']:g} minutes for all); scored on "
        f"{setting['test']} test images. Mean over the seeds, lowest and highest in brackets."
    )


def _table(scores: Scores) -> str:
    rows = [[arm.title, *(_cell(values(arm, metric, scores)) for metric in METRICS)] for arm in ARMS]
    lines = [["arm", *METRICS.values()], ["---", "---:", "---:"], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(found: list[float]) -> str:
    if not found:
        return ""
    return f"{mean(found):.3f} [{min(found):.3f}, {max(found):.3f}]"


def _plot(scores: Scores, path: Path) -> None:
    figure = Figure(figsize=(9, 0.4 * len(ARMS) + 1), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, 2, sharey=True), METRICS.items(), strict=True):
        for row, arm in enumerate(ARMS):
            found = values(arm, metric, scores)
            axes.plot(found, [row] * len(found), "o", color="tab:blue", alpha=0.5)
            if found:
                axes.plot([mean(found)], [row], "|", color="black", markersize=14)
        axes.set_yticks(range(len(ARMS)), [arm.title for arm in ARMS])
        axes.set(title=title)
        axes.grid(axis="x", alpha=0.3)
    figure.gca().invert_yaxis()
    figure.savefig(path, dpi=110)
