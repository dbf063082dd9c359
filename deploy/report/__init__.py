"""Record in `report.json` what was built, from what, how fast it is and what it costs.

The same file tells the next build what it need not build again. `page` shows it to people, `engine_table` at a
terminal.
"""

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from data_pipeline.cores import cores, processor
from data_pipeline.fields import as_line
from data_pipeline.files import write_whole
from deploy.engines.gpu import name_here
from deploy.verify import SCORES, Change, Parity

REPORT, PAGE = "report.json", "report.html"
CPU_TARGETS = ("onnx", "openvino")  # what the CPU server runs: in ONNX Runtime and in OpenVINO
PLAN_TARGETS = ("tensorrt",)  # what NVIDIA's server can load as a plan, with the contract's tensors
# Instructions that decide how fast a runtime computes, and in which precision, as Linux names them.
FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
DIGEST = "digest"


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
    parity: its differences in numbers, or None where this machine can build but not run it, or it was refused.
    scores: its own, or None where it was not run or there are no targets.
    latency_ms: median time of one image, or None where it was not run. A refused engine was timed in the build that
        refused it.
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
    files: SHA-256 of every other published file, by its path in the output directory.
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
    files: dict[str, str] = field(default_factory=dict)

    @property
    def served(self) -> EngineRecord:
        """Return the engine that the CPU server runs: the fastest that passed, in whichever runtime of a CPU."""
        # An engine without parity was refused or not run here.
        runnable = [engine for engine in self.engines if engine.parity and engine.target in CPU_TARGETS]
        return min(runnable, key=milliseconds)

    @property
    def plan(self) -> EngineRecord | None:
        """Return the engine that the GPU server runs, the fastest that was not refused, or None without one.

        Where none was timed, because their GPU is another machine's, it is the smallest.
        """
        plans = [engine for engine in self.engines if engine.target in PLAN_TARGETS and not engine.refused]
        return min(plans, key=lambda plan: (milliseconds(plan), plan.bytes), default=None)


def milliseconds(engine: EngineRecord) -> float:
    """Return the median time of one image, infinite for an engine that was not timed."""
    return float("inf") if engine.latency_ms is None else engine.latency_ms


def machine() -> dict[str, str]:
    """Describe the processor and the system that figures are measured on."""
    about = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in _cpuinfo())}
    present = set(about.get("flags", "").split())
    gpu = name_here()
    return {
        "processor": processor(),
        "features": " ".join(name for name in FEATURES if name in present),
        "cores": str(cores()),
        "system": platform.platform(),
        "python": platform.python_version(),
        **({"gpu": gpu} if gpu else {}),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def write_report(output: Path, report: Report) -> None:
    """Write `report.json` in one step, with a hash of its own content."""
    fields = asdict(report)
    write_whole(output / REPORT, json.dumps({**fields, DIGEST: _digest(fields)}, indent=2) + "\n")


def read_report(output: Path) -> Report | None:
    """Read the report of an earlier build, or return None where there is none, or one that was changed or is older."""
    try:
        fields = json.loads((output / REPORT).read_text(encoding="utf-8"))
        if fields.pop(DIGEST) != _digest(fields):
            return None
        engines = tuple(_engine(record) for record in fields.pop("engines"))
        return Report(engines=engines, **fields)
    # An older or damaged report costs no more than a new build.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(fields: dict[str, Any]) -> str:
    """Hash a report's fields, so that a changed one, such as a better score, is not taken for what was measured."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _engine(fields: dict[str, Any]) -> EngineRecord:
    parity = fields.pop("parity")
    # JSON has stored the named tuples as plain lists.
    changes = {name: Change(*values) for name, values in fields.pop("changes").items()}
    return EngineRecord(parity=Parity(**parity) if parity else None, changes=changes, **fields)


def engine_table(report: Report) -> Table:
    """Make a table with a row for each engine: size, time, difference to PyTorch and scores, or why it has none."""
    # As Text, because a file's name may hold brackets, which rich would take for markup in a string.
    title = Text(as_line(report.checkpoint), style="table.title")
    table = Table("engine", "precision", "MB", "ms", "mask differs", "Dice", "accuracy", "AUC", title=title)
    scores = report.reference_scores or {}
    table.add_row("PyTorch", "fp32", "", f"{report.reference_ms:.1f}", "", *(_score(scores, name) for name in SCORES))
    for engine in report.engines:
        table.add_row(engine.target, engine.precision, *_figures(engine))
    return table


def notes(report: Report) -> list[str]:
    """List every engine that is missing, one line each, with the reason, and last the one that is served."""
    refused = [f"{engine.name}: {engine.refused}" for engine in report.engines if engine.refused]
    left_out = [f"{name} was not tried: {reason}" for name, reason in report.left_out.items()]
    return [*refused, *left_out, served_note(report)]


def served_note(report: Report) -> str:
    """Name the engine that is served, and say of each faster one why it is not."""
    served = report.served
    faster = sorted((e for e in report.engines if milliseconds(e) < milliseconds(served)), key=milliseconds)
    reasons = [
        f"{engine.name} ({engine.latency_ms:.1f} ms) is faster but "
        + ("was refused" if engine.refused else "runs on a GPU, which this repository is not for")
        for engine in faster
    ]
    best = f"the server runs {served.name} ({served.latency_ms:.1f} ms), the fastest here that keeps the scores"
    return "; ".join([best, *reasons])


def _figures(engine: EngineRecord) -> list[str]:
    size = f"{engine.bytes / 1e6:.1f}"
    # One that was verified on another machine's GPU has no time beside those of this one.
    time = "" if engine.latency_ms is None else f"{engine.latency_ms:.1f}"
    if engine.refused:
        return ["", time, "refused"]
    if engine.parity is None:
        return [size, "", "needs a GPU"]
    differs = f"{100 * engine.parity.mask:.4f} %"
    return [size, time, differs, *(_score(engine.scores or {}, name) for name in SCORES)]


def _score(scores: dict[str, float], name: str) -> str:
    # Noise has no scores, and AUC none where a label is always present or always absent.
    return f"{scores[name]:.4f}" if name in scores else ""
