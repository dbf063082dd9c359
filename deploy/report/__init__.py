"""Record in `report.json` what was built, from what, how fast it is and what it costs.

The same file tells the next build what it need not build again. `page` shows it to people, `engine_table` at a
terminal.
"""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from data_pipeline.files import write_whole
from deploy.verify import SCORES, Change, Parity

REPORT, PAGE = "report.json", "report.html"
# The CPU server runs everything in OpenVINO, which reads its own files and ONNX.
CPU_TARGETS = ("onnx", "openvino")


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """Describe one engine, built or refused.

    target: kind of engine, as on the command line.
    precision: as on the command line.
    file: its name in the output directory.
    bytes: its size with its companions, 0 where it is refused.
    build_seconds: without verification.
    tool: what built it, with the version.
    key: fingerprint of everything it was made from.
    sha256: fingerprint of the file and its companions, empty where it is refused.
    parity: its differences in numbers, or None where this machine can build but not run it.
    scores: its own, or None where it was not run or there are no targets.
    latency_ms: median time of one image, or None where it was not run.
    changes: by score, what it lost or won on the task, with its 95 % interval.
    refused: why it was deleted, or None for a good engine.
    """

    target: str
    precision: str
    file: str
    bytes: int = 0
    build_seconds: float = 0.0
    tool: str
    key: str
    sha256: str = ""
    parity: Parity | None = None
    scores: dict[str, float] | None = None
    latency_ms: float | None = None
    changes: dict[str, Change] = field(default_factory=dict)
    refused: str | None = None

    @property
    def name(self) -> str:
        """Return its name for the reader, as "openvino fp32"."""
        return f"{self.target} {self.precision}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Describe everything in one output directory.

    checkpoint: its name, for the reader.
    model_key: fingerprint of what all engines have in common. Those of another model are not kept with these.
    contract: what the engines take and return, as `Contract.to_fields` gives it.
    samples: what the engines were verified on, for the reader.
    reference_scores: of the trained network in PyTorch fp32 on the same samples, or None without targets.
    reference_ms: its median time of one image, taken in the same alternating run as the engines'.
    engines: in the order in which they were made.
    machine: the processor and system that the times were measured on.
    versions: of the tools that made the ONNX file.
    left_out: engines that "auto" could not try here, and why.
    """

    checkpoint: str
    model_key: str
    contract: dict[str, Any]
    samples: str
    reference_scores: dict[str, float] | None
    reference_ms: float
    engines: tuple[EngineRecord, ...]
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def served(self) -> EngineRecord:
        """Return the engine that the CPU server runs: OpenVINO's fastest, or else the fastest ONNX file."""
        # An engine without parity was refused or not run here.
        runnable = [engine for engine in self.engines if engine.parity and engine.target in CPU_TARGETS]
        return min(runnable, key=lambda engine: (engine.target != "openvino", engine.latency_ms))


def machine() -> dict[str, str]:
    """Describe the processor and the system that figures are measured on."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        # `platform` does not know a processor's name on Linux.
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def write_report(output: Path, report: Report) -> None:
    """Write `report.json` in one step."""
    write_whole(output / REPORT, json.dumps(asdict(report), indent=2) + "\n")


def read_report(output: Path) -> Report | None:
    """Read the report of an earlier build, or return None where there is none that this version can read."""
    try:
        fields = json.loads((output / REPORT).read_text())
        engines = tuple(_engine(record) for record in fields.pop("engines"))
        return Report(engines=engines, **fields)
    # An older or damaged report costs no more than a new build.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _engine(fields: dict[str, Any]) -> EngineRecord:
    parity = fields.pop("parity")
    # JSON has stored the named tuples as plain lists.
    changes = {name: Change(*values) for name, values in fields.pop("changes").items()}
    return EngineRecord(parity=Parity(**parity) if parity else None, changes=changes, **fields)


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
