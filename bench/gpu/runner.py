"""Run the steps one after the other, each in a process of its own, and write what is known after each of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from bench import ROOT
from bench.gpu.machine import NEEDS, Machine
from bench.gpu.report import MARKDOWN, PAGE, markdown, page
from bench.gpu.steps import Step
from data_pipeline.files import write_whole

RESULTS = "gpu.json"
# A step that is slower than planned may use what others left over, up to so many times its own seconds. One that hangs
# shall not use all of it.
STRETCH = 4
# Before the limit, so that the contender under way can be finished.
LAST_START = 5.0
GRACE = 10.0  # seconds to stop servers and containers after the limit

State = Literal["done", "failed", "timed out", "left out", "lacking"]


@dataclass(kw_only=True)
class Outcome:
    """Hold what became of a step.

    name, title: of the step.
    state: how it ended.
    reason: why it ended so, in one line.
    seconds: that it took.
    limit: that it had.
    rows: what it measured, as `bench.gpu.session.Row.fields` gives it.
    """

    name: str
    title: str
    state: State = "done"
    reason: str = ""
    seconds: float = 0.0
    limit: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)


def lacking(step: Step, machine: Machine) -> str:
    """Name what a step needs and the machine lacks, or return an empty text."""
    return ", ".join(NEEDS[need] for need in step.needs if need in machine.lacks)


def allowance(step: Step, later: Sequence[Step], left: float) -> float:
    """Return the seconds that a step may take: its own, and what the steps before it have left over.

    Args:
        step: the next one.
        later: those after it that can run here.
        left: seconds until the budget is used up.
    """
    spare = left - step.seconds - sum(one.seconds for one in later)
    return min(left, step.seconds + max(0.0, spare), STRETCH * step.seconds)


def run_steps(
    machine: Machine, budget: float, output: Path, say: Callable[[str], None], steps: Sequence[Step]
) -> dict[str, Any]:
    """Run what this machine can run within `budget` seconds.

    `output` then has `gpu.json`, a page, the tables as Markdown, and what each step printed.

    Returns:
        what `gpu.json` holds.
    """
    results: dict[str, Any] = {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "budget_seconds": budget,
        "machine": asdict(machine),
        "steps": [],
    }
    end = time.monotonic() + budget
    runnable = [step for step in steps if not lacking(step, machine)]
    try:
        for step in steps:
            later = runnable[runnable.index(step) + 1 :] if step in runnable else []
            outcome = _attempt(step, later, machine, end - time.monotonic(), output)
            results["steps"].append(asdict(outcome))
            say(line_of(outcome))
            write_results(results, output)
    finally:
        write_results(results, output)
    return results


def write_results(results: dict[str, Any], output: Path) -> None:
    """Write the results in all three forms, each whole or not at all."""
    write_whole(output / RESULTS, json.dumps(results, indent=1) + "\n")
    write_whole(output / PAGE, page(results))
    write_whole(output / MARKDOWN, markdown(results))


def line_of(outcome: Outcome) -> str:
    """Say in one line how a step ended."""
    states = [row["state"] for row in outcome.rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    told = "; ".join(part for part in (counts, outcome.reason) if part)
    return f"{outcome.name}: {outcome.state} in {outcome.seconds:.0f} s" + (f" ({told})" if told else "")


def _attempt(step: Step, later: Sequence[Step], machine: Machine, left: float, output: Path) -> Outcome:
    outcome = Outcome(name=step.name, title=step.title)
    if reason := lacking(step, machine):
        outcome.state, outcome.reason = "lacking", f"it needs {reason}"
        return outcome
    if left < step.seconds / 2:
        outcome.state, outcome.reason = (
            "left out",
            f"{max(0, left):.0f} s of the budget are left, it needs {step.seconds} s",
        )
        return outcome
    outcome.limit = allowance(step, later, left)
    # Whole, because the worker runs in the project's folder.
    rows, log = output.resolve() / f"{step.name}.jsonl", output / f"{step.name}.log"
    rows.unlink(missing_ok=True)
    seconds = max(1.0, outcome.limit - LAST_START)
    command = [sys.executable, "-m", "bench.gpu.worker", step.work, f"--seconds={seconds}", f"--rows={rows}"]
    begun = time.monotonic()
    outcome.state, outcome.reason = run_process(command, outcome.limit, log, output / "cache" / step.name)
    outcome.seconds = time.monotonic() - begun
    outcome.rows = read_rows(rows)
    return outcome


def run_process(command: Sequence[str], limit: float, log: Path, cache: Path) -> tuple[State, str]:
    """Run a command for `limit` seconds at most, and end everything that it has started.

    Args:
        command: what to run, in the project's folder.
        limit: in seconds.
        log: file for what it prints.
        cache: folder for what compilers keep for the next run. It is removed where the limit is reached.

    Returns:
        how it ended, and why in one line.
    """
    folders = {f"{name.upper()}_CACHE_DIR": str(cache.resolve() / name) for name in ("triton", "torchinductor")}
    # cuBLAS asks for it where tests want deterministic results.
    environment = os.environ | folders | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    if code is None:
        # An interrupted compiler leaves half a file there, which would fail the next run.
        shutil.rmtree(cache, ignore_errors=True)
        return "timed out", f"the limit of {limit:.0f} s was reached"
    return ("failed", _last_line(log) or f"it ended with {code}") if code else ("done", "")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and all of its group: compilers, servers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a step, but for a last one that was not finished.

    What was begun has a row that says it was cut off. It counts only where nothing came after it.
    """
    rows: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        with suppress(ValueError):
            rows.append(json.loads(line))
    return [row for row in rows[:-1] if row["state"] != "cut off"] + rows[-1:]


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")[:300]


def _commit() -> str:
    """Name the commit, or say that this is no checkout of git."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no git checkout"
