"""Load the engines that are timed side by side, in this process or each in a fresh one.

`python -m bench.contenders TITLE` loads one, runs it and prints the peak memory of its process.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench import BASELINE
from data_pipeline.command_line import new_parser, positive
from deploy.contract import Contract
from deploy.engines import EngineOutput, Runner, cpu_runner, engine_runner, pytorch_runner
from deploy.network.openvino_session import core
from deploy.report import EngineRecord, Report, read_report
from model.checkpoint import load_checkpoint
from model.network import DecodedNetwork

PLAIN = "plain.onnx"
EAGER, COMPILED = "PyTorch eager fp32", "torch.compile fp32"


class Contender(NamedTuple):
    """Hold an engine's precision and the function that opens it, compiled where it has to be."""

    precision: str
    load: Callable[[], Runner]


@dataclass(frozen=True)
class Contenders:
    """Find the engines that `build_engine` left in `output`, and the plain export next to them."""

    checkpoint: str
    output: Path
    threads: int

    def by_title(self) -> dict[str, Contender]:
        """Return every engine that this machine runs by its title, what a user would pick instead of ours first."""
        plain = self.output / PLAIN
        contenders = {EAGER: Contender("fp32", self._eager)}
        # torch.compile's CPU backend writes C++ and fails without a compiler.
        if shutil.which("c++"):
            contenders[COMPILED] = Contender("fp32", self._compiled)
        contenders[BASELINE] = Contender("fp32", partial(cpu_runner, plain, "onnxruntime", self.threads))
        contenders["plain export, OpenVINO fp32"] = Contender(
            "fp32", partial(cpu_runner, plain, "openvino f32", self.threads)
        )
        # A processor without bf16 instructions would only emulate them.
        if "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            contenders["plain export, OpenVINO bf16"] = Contender(
                "bf16", partial(cpu_runner, plain, "openvino bf16", self.threads)
            )
        # An engine without parity cannot run here, and files in fp16 and fp8 are meant for GPUs.
        ours = [
            record
            for record in report_of(self.output).engines
            if record.parity and record.precision in ("fp32", "bf16", "int8")
        ]
        return contenders | {
            f"ours, {record.target} {record.precision}": Contender(record.precision, partial(self._ours, record))
            for record in ours
        }

    def _eager(self) -> Runner:
        torch.set_num_threads(self.threads)
        return pytorch_runner(load_checkpoint(self.checkpoint).build())

    def _compiled(self) -> Runner:
        torch.set_num_threads(self.threads)
        compiled = torch.compile(DecodedNetwork(load_checkpoint(self.checkpoint).build()).eval())

        def run(images: NDArray[np.float32]) -> EngineOutput:
            with torch.inference_mode():
                return EngineOutput(*(output.numpy() for output in compiled(torch.from_numpy(images))))

        return run

    def _ours(self, record: EngineRecord) -> Runner:
        runner = engine_runner(record.target, record.precision, self.output / record.file, self.threads)
        assert runner is not None
        return runner


def report_of(output: Path) -> Report:
    """Return the report of the build in `output`, which must be there."""
    report = read_report(output)
    assert report is not None, f"{output} holds no report that this version reads"
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
    parser.add_argument("name", help='title of the contender, such as "ours, openvino fp32"')
    return parser


def main() -> None:
    """Load one contender, run it on a batch, print the peak memory of the process as JSON."""
    parser = _parser()
    options = parser.parse_args()
    images = noise(Contract.from_fields(report_of(options.output).contract), options.batch)
    contenders = Contenders(options.checkpoint, options.output, options.threads).by_title()
    if options.name not in contenders:
        parser.error(f"the contenders are {'; '.join(contenders)}, got {options.name}")
    runner = contenders[options.name].load()
    # More than once: torch.compile and the runtimes allocate in their first runs what later ones reuse.
    for _ in range(3):
        runner(images)
    print(json.dumps({"peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Return the largest resident size of this process since it began, in MB."""
    # Not `getrusage`, whose maximum includes the process that started this one.
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main()
