"""Plot what each engine takes in time against what it costs on the task."""

import base64
import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy.report.records import EngineRecord, Report
from deploy.verify.task_gate import TASK_TOLERANCE

PANELS = {"dice": "Dice", "accuracy": "accuracy"}


def trade_off(report: Report) -> str | None:
    """Plot the time of one image against the change of each score, as a PNG in a data URL.

    Return None where nothing was scored.
    """
    engines = [engine for engine in report.engines if engine.changes and engine.latency_ms is not None]
    if not engines:
        return None
    # Without pyplot, which would choose a display and keep every figure.
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (score, label) in zip(figure.subplots(1, len(PANELS), sharex=True), PANELS.items(), strict=True):
        axes.plot(report.reference_ms, 0, "k*", markersize=10, label="PyTorch fp32")
        for engine in engines:
            _point(axes, engine, score)
        axes.axhline(-TASK_TOLERANCE[score], color="tab:red", linestyle="--", linewidth=1, label="refused below")
        axes.set(xlabel="one image, ms (median)", ylabel=f"{label}, change to PyTorch", xlim=(0, None))
        axes.grid(alpha=0.3)
    # Both panels have the same legend, so one below them is enough.
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _point(axes: Axes, engine: EngineRecord, score: str) -> None:
    change = engine.changes[score]
    assert engine.latency_ms is not None
    # errorbar takes lengths, not ends.
    span = [[change.value - change.low], [change.high - change.value]]
    axes.errorbar(engine.latency_ms, change.value, yerr=span, fmt="o", capsize=3, label=engine.name)
