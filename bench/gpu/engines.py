"""Build TensorRT's engines with `deploy.build_engine`, and time what passed its verification.

Their rows stand in the table of the whole network. An engine takes float32 images and decodes the mask as well.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import OUTPUT, ROOT
from bench.gpu.networks import TABLE, NetworkCase
from bench.gpu.session import Row, Session, one_line
from deploy.engines import TARGETS
from deploy.report import EngineRecord, read_report
from model import PRESETS

NAMES = ("paper-224", "paper-512")
BATCHES = (1, 8, 32)


def tensorrt(session: Session) -> None:
    """Measure engines of the plain graph, in batches."""
    _measure(session, "TensorRT", "tensorrt", BATCHES)


def tensorrt_plugins(session: Session) -> None:
    """Measure engines that run our kernels, which take one image at a time."""
    _measure(session, "TensorRT, our plugins", "tensorrt", (1,), "--plugins")


def torch_tensorrt(session: Session) -> None:
    """Measure what Torch-TensorRT converts without ONNX in between."""
    _measure(session, "Torch-TensorRT", "torch-tensorrt", BATCHES)


def _measure(session: Session, contender: str, target: str, batches: Sequence[int], *options: str) -> None:
    for name in NAMES:
        cases = [NetworkCase(name=name, config=PRESETS[name], batch=batch, dtype=torch.float16) for batch in batches]
        if session.is_over:
            for case in cases:
                session.leave_out(TABLE, str(case), [contender])
            continue
        output = OUTPUT / "gpu" / "-".join([name, target, *(option.strip("-") for option in options)])
        try:
            record = build(build_arguments(name, target, max(batches), output, *options), output)
            time_engine(session, contender, cases, record, lambda record, file=output: open_plan(record, file))  # type: ignore[misc]
        # A build that fails must not keep the other network from its turn.
        except Exception as error:
            for case in cases:
                row = Row(table=TABLE, case=str(case), contender=contender)
                session.write(row.without_time("failed", one_line(error)))


def build_arguments(name: str, target: str, max_batch: int, output: Path, *options: str) -> list[str]:
    """Return the arguments of `deploy.build_engine` for an fp16 engine of a preset with random weights."""
    chosen = ["--checkpoint", f"random:{name}", "--target", target, "--precision", "fp16"]
    return [*chosen, "--max-batch", str(max_batch), "--output", str(output), *options]


def build(arguments: Sequence[str], output: Path) -> EngineRecord:
    """Run the build as a user would, and return what its report says of the engine."""
    command = [sys.executable, "-m", "deploy.build_engine", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(ended.stdout, ended.stderr, sep="\n")
    report = read_report(output)
    engines = [one for one in report.engines if one.target in arguments] if report else []
    if ended.returncode or not engines:
        told = ended.stderr.strip().splitlines()
        raise RuntimeError(told[-1] if told else f"the build ended with {ended.returncode}")
    return engines[0]


def open_plan(record: EngineRecord, output: Path) -> Any:
    """Open an engine, or return None where this machine can only build it."""
    return TARGETS[record.target].runner(output / record.file)


def time_engine(
    session: Session,
    contender: str,
    cases: Sequence[NetworkCase],
    record: EngineRecord,
    opener: Callable[[EngineRecord], Any],
) -> None:
    """Time an engine that passed the build's verification, as the CUDA graph that its runner replays."""
    plan = None if record.refused else opener(record)
    for case in cases:
        row = Row(table=TABLE, case=str(case), contender=contender)
        if record.refused:
            session.write(row.without_time("wrong", f"the build refused it: {record.refused}"))
            continue
        if plan is None:
            session.write(row.without_time("failed", "it was built, and there is no runner for it here"))
            continue
        size = case.config.image_size
        plan(np.random.default_rng(0).standard_normal((case.batch, 3, size, size), np.float32))
        # The runner has recorded this batch size in its first call.
        with torch.cuda.stream(plan.stream):
            timing = session.timer(plan.batches[case.batch].launch, graph=False)
        parity = record.parity
        figures = {"mask pixels that differ": parity.mask, "build seconds": record.build_seconds} if parity else {}
        session.write(replace(row, figures=figures).with_time(timing, session.clocks()))
