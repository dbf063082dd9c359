"""`report.json`: what was built, of what, how fast and how true; also the memory of what need not be built again."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.files import write_whole
from deploy.verify import Change, Parity

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """One built and verified engine.

    file: its name in the output directory.  bytes: its size, companions included.  key: fingerprint of all it was made
    of.  sha256: of file and companions.  parity, scores, latency_ms: None where this machine can build but not run it.
    changes: by score, what it lost or won on the task, with its 95 % interval.  refused: why it was deleted, else None.
    """

    target: str
    precision: str
    file: str
    bytes: int
    build_seconds: float
    tool: str
    key: str
    sha256: str
    parity: Parity | None = None
    scores: dict[str, float] | None = None
    latency_ms: float | None = None
    changes: dict[str, Change] = field(default_factory=dict)
    refused: str | None = None

    @property
    def name(self) -> str:
        return f"{self.target} {self.precision}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything of one output directory.

    model_key: fingerprint of the weights and of the code; engines of another model are never kept beside these.
    reference_scores and reference_ms: of the trained PyTorch network in fp32 on the same samples and machine; all
    times are medians of one alternating run.  left_out: engines that "auto" could not try here, and why.
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
        """What the CPU server runs: OpenVINO's fastest engine, else the ONNX file, which it reads too."""
        runnable = [engine for engine in self.engines if engine.parity]
        return min(runnable, key=lambda engine: (engine.target != "openvino", engine.latency_ms))


def machine() -> dict[str, str]:
    """The processor and system that the figures were measured on."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
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
    """The report of an earlier build; None where there is none that this version can read (then all is built anew)."""
    try:
        fields = json.loads((output / REPORT).read_text())
        engines = tuple(_engine(record) for record in fields.pop("engines"))
        return Report(engines=engines, **fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _engine(fields: dict[str, Any]) -> EngineRecord:
    parity = fields.pop("parity")
    changes = {name: Change(*values) for name, values in fields.pop("changes").items()}
    return EngineRecord(parity=Parity(**parity) if parity else None, changes=changes, **fields)
