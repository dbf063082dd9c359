"""Show the engines of a build as a table for the terminal."""

from rich.table import Table

from deploy.report.records import EngineRecord, Report

SCORES = ("dice", "accuracy", "auc")


def engine_table(report: Report) -> Table:
    """Make a table with a row for each engine: size, time, difference to PyTorch and scores, or why it has none."""
    table = Table("engine", "precision", "MB", "ms", "mask differs", "Dice", "accuracy", "AUC", title=report.checkpoint)
    scores = report.reference_scores or {}
    table.add_row("PyTorch", "fp32", "", f"{report.reference_ms:.1f}", "", *(_score(scores, name) for name in SCORES))
    for engine in report.engines:
        table.add_row(engine.target, engine.precision, *_figures(engine))
    return table


def notes(report: Report) -> list[str]:
    """List every engine that is missing, one line each, with the reason."""
    refused = [f"{engine.name}: {engine.refused}" for engine in report.engines if engine.refused]
    return refused + [f"{name} was not tried: {reason}" for name, reason in report.left_out.items()]


def _figures(engine: EngineRecord) -> list[str]:
    size = f"{engine.bytes / 1e6:.1f}"
    if engine.refused:
        return ["", "", "refused"]
    if engine.parity is None:
        return [size, "", "needs a GPU"]
    differs = f"{100 * engine.parity.mask:.4f} %"
    return [size, f"{engine.latency_ms:.1f}", differs, *(_score(engine.scores or {}, name) for name in SCORES)]


def _score(scores: dict[str, float], name: str) -> str:
    # Noise has no scores, and AUC none where a label is always present or always absent.
    return f"{scores[name]:.4f}" if name in scores else ""
