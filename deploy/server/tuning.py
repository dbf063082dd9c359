"""Choose how many workers serve a model, with how many threads each, from what `deploy.tune` has measured."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.cores import cores, processor
from data_pipeline.fields import is_whole, require
from data_pipeline.files import write_whole
from deploy.files import TUNING
from deploy.server.options import Tuning, Workers

MOST = 1024  # workers, and threads of one, that a machine may have


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Hold what `deploy.tune` has found for one network on one machine.

    sha256: of the served model.
    processor: its name.
    cores: that the measuring process had a share in.
    tuned: the best within the limit that was asked for.
    latency: the quickest answer to one caller.
    throughput: the most answers.
    """

    sha256: str
    processor: str
    cores: int
    tuned: Workers
    latency: Workers
    throughput: Workers


def presets() -> dict[Tuning, Workers]:
    """Return the choices where nothing was measured: one worker with every core, or one worker a core."""
    latency, throughput = Workers(1, cores()), Workers(cores(), 1)
    return {"tuned": latency, "latency": latency, "throughput": throughput}


def choose(repository: Path, sha256: str, tuning: Tuning | Workers) -> Workers:
    """Return workers and threads: those given, or those measured for this network here, or else a preset's."""
    if isinstance(tuning, Workers):
        return tuning
    measured = _read(repository)
    if measured and (measured.sha256, measured.processor, measured.cores) == (sha256, processor(), cores()):
        chosen: Workers = getattr(measured, tuning)
        return chosen
    return presets()[tuning]


def write_tuning(repository: Path, tuned: Tuned) -> None:
    """Write the choices into a repository.

    Raises OSError where they cannot be written.
    """
    write_whole(repository / TUNING, json.dumps(asdict(tuned), indent=2) + "\n")


def _read(repository: Path) -> Tuned | None:
    """Read the choices, None where there are none, or a file of something else."""
    try:
        fields = json.loads((repository / TUNING).read_text(encoding="utf-8"))
        choices: dict[str, Any] = {name: Workers(**fields.pop(name)) for name in ("tuned", "latency", "throughput")}
        for choice in choices.values():
            for name, number in vars(choice).items():
                require(is_whole(number, 1, MOST), name, f"a whole number from 1 to {MOST}", number)
        return Tuned(**fields, **choices)
    # The parser goes as deep as the brackets do.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
