"""Load the engines that are timed side by side, in this process or each in a fresh one.

`python -m bench.contenders NAME` loads one, runs it and prints the peak memory of its process.
"""

import argparse
import json
import shutil
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench import BASELINE, OUTPUT
from bench.plain_export import onnxruntime_runner, openvino_runner, plain_export
from bench.turns import UnavailableError
from data_pipeline.command_line import new_parser, positive
from deploy.contract import Contract
from deploy.engines import TARGETS, EngineOutput, EngineRequest, Runner, engine_runner, pytorch_runner
from deploy.report import Report, read_report
from deploy.verify import Parity, compare
from model.checkpoint import load_checkpoint
from model.network import DecodedNetwork

# Ours come first, also in a table that is sorted by name.
OURS = (
    *("ours-openvino-fp32", "ours-openvino-bf16", "ours-openvino-int8", "ours-openvino-mixed"),
    *("ours-onnx-fp32", "ours-onnx-int8", "ours-onnx-mixed"),
)
COMPILED, EAGER = "torch.compile-fp32", "pytorch-fp32"
CONTENDERS = (*OURS, "plain-openvino-fp32", "plain-openvino-bf16", BASELINE, COMPILED, EAGER)
PLAIN = OUTPUT / "plain.onnx"
FEW = 0.001  # share of a mask's pixels that rounding may move


@dataclass
class Inference:
    """Time an engine on one batch.

    runner: the engine.
    images: the batch.
    parity: how far its answers are from the trained network's.
    """

    runner: Runner
    images: NDArray[np.float32]
    parity: Parity

    def __call__(self) -> float:
        start = time.perf_counter()
        self.runner(self.images)
        return time.perf_counter() - start


@dataclass
class Contenders:
    """Open the engines that `build_engine` left in `output`, and what a user would take instead of them."""

    checkpoint: str
    output: Path
    threads: int
    _plain_is_written: bool = False
    _references: dict[int, EngineOutput] = field(default_factory=dict)

    @cached_property
    def contract(self) -> Contract:
        """Return the contract of the engines."""
        return Contract.from_fields(report_of(self.output).contract)

    def inference(self, name: str, batch: int) -> Inference:
        """Open an engine and compare it with the trained network, so that no wrong one is timed.

        Raises UnavailableError where it cannot run here.
        """
        if name.startswith("plain") and not self._plain_is_written:
            plain_export(load_checkpoint(self.checkpoint).build(), self.contract, PLAIN)
            self._plain_is_written = True
        images, runner = noise(self.contract, batch), self.load(name, batch)
        if batch not in self._references:
            self._references[batch] = pytorch_runner(load_checkpoint(self.checkpoint).build())(images)
        parity = compare(self._references[batch], runner(images))
        # Lower precisions are held to the task by the build's gate.
        wrong = f"{name}: {parity.mask:.2%} of the mask's pixels are wrong"
        assert parity.mask < FEW or not name.endswith("fp32"), wrong
        return Inference(runner, images, parity)

    def load(self, name: str, batch: int) -> Runner:
        """Open an engine for batches of one size. The plain export must be there.

        Raises UnavailableError where it cannot run here.
        """
        kind, _, precision = name.rpartition("-")
        check_processor(precision)
        if kind.startswith("ours-"):
            return self._ours(kind.removeprefix("ours-"), precision)
        if kind == "plain-openvino":
            return openvino_runner(PLAIN, self.threads, batch, {"fp32": "f32"}.get(precision, precision))
        if name == BASELINE:
            return onnxruntime_runner(PLAIN, self.threads, batch)
        torch.set_num_threads(self.threads)
        model = load_checkpoint(self.checkpoint).build()
        return pytorch_runner(model) if name == EAGER else _compiled(DecodedNetwork(model).eval())

    def _ours(self, target: str, precision: str) -> Runner:
        engines = report_of(self.output).engines
        found = [engine for engine in engines if (engine.target, engine.precision) == (target, precision)]
        if not found:
            raise UnavailableError(f"{target} {precision} was not built: --precision auto tries all")
        (record,) = found
        if record.refused:
            raise UnavailableError(f"the build refused {target} {precision}: {record.refused}")
        runner = engine_runner(target, precision, self.output / record.file, self.threads)
        if runner is None:
            raise UnavailableError(f"{target} {precision} was built for another machine")
        return runner


def _compiled(network: DecodedNetwork) -> Runner:
    # torch.compile's CPU backend writes C++ and fails without a compiler.
    if not shutil.which("c++"):
        raise UnavailableError("torch.compile needs a C++ compiler, and there is no c++")
    compiled = torch.compile(network)

    def run(images: NDArray[np.float32]) -> EngineOutput:
        with torch.inference_mode():
            return EngineOutput(*(output.numpy() for output in compiled(torch.from_numpy(images))))

    return run


def check_processor(precision: str) -> None:
    """Raise UnavailableError where the processor would only emulate a precision."""
    if reasons := TARGETS["openvino"].check(EngineRequest(precision=precision)):
        raise UnavailableError("; ".join(reasons))


def report_of(output: Path) -> Report:
    """Return the report of the build in `output`.

    Raises UnavailableError where there is none.
    """
    report = read_report(output)
    if report is None:
        command = f"`python -m deploy.build_engine --output {output}`"
        raise UnavailableError(f"{output} must hold a build that this version reads, it has none: run {command}")
    return report


def noise(contract: Contract, batch: int) -> NDArray[np.float32]:
    """Make images for timing: (batch, 3, S, S), the same each time."""
    return np.random.default_rng(0).standard_normal((batch, *contract.network_input.shape), np.float32)


def _parser() -> argparse.ArgumentParser:
    description = "Load one contender, run it on a batch, print the process' peak memory in MB."
    parser = new_parser("bench.contenders", description)
    parser.add_argument("--checkpoint", required=True, help="file or random:PRESET")
    parser.add_argument("--output", type=Path, required=True, help="folder of the engines")
    parser.add_argument("--threads", type=positive(int), default=2, help="threads of the engine (default 2)")
    parser.add_argument("--batch", type=positive(int), default=1, help="images a run (default 1)")
    parser.add_argument("name", choices=CONTENDERS, help="the contender")
    return parser


def main() -> None:
    """Load one contender, run it on a batch, print the peak memory of the process as JSON."""
    parser = _parser()
    options = parser.parse_args()
    contenders = Contenders(options.checkpoint, options.output, options.threads)
    try:
        runner, images = contenders.load(options.name, options.batch), noise(contenders.contract, options.batch)
    except UnavailableError as reason:
        parser.error(str(reason))
    # More than once: torch.compile and the runtimes allocate in their first runs what later ones reuse.
    for _ in range(3):
        runner(images)
    print(json.dumps({"peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Return the largest resident size of this process since it began, in MB."""
    # Not `getrusage`, whose maximum includes the process that started this one.
    (line,) = [
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
