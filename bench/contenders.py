"""The engines that are timed side by side, each loaded by name in this process or in one of its own."""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.contract import Contract
from deploy.engines import EngineOutput, Runner, engine_runner, onnx_runner, pytorch_runner
from deploy.engines.openvino_cpu import core, openvino_runner
from deploy.report.records import read_report
from model.checkpoint import load_checkpoint
from model.network.outputs import DecodedNetwork

PLAIN = "plain.onnx"
EAGER, COMPILED = "PyTorch eager fp32", "torch.compile fp32"


@dataclass(frozen=True)
class Contenders:
    """What `build_engine` left in `output`, with the plain export beside it."""

    checkpoint: str
    output: Path
    threads: int

    def names(self) -> list[str]:
        """Everything that this machine runs, what a user would pick instead first."""
        names = [EAGER, "plain export, ONNX Runtime fp32", "plain export, OpenVINO fp32"]
        if shutil.which("c++"):
            names.insert(1, COMPILED)  # it needs a C++ compiler
        if "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            names.append("plain export, OpenVINO bf16")
        report = read_report(self.output)
        assert report is not None
        ours = [record for record in report.engines if record.parity and record.precision in ("fp32", "bf16", "int8")]
        return names + [f"ours, {record.target} {record.precision}" for record in ours]

    def load(self, name: str) -> Runner:
        """Ready to run; compiled where it has to be."""
        maker, _, rest = name.partition(", ")
        if maker == "plain export":
            runtime, precision = rest.rsplit(" ", 1)
            path, execution = self.output / PLAIN, "bf16" if precision == "bf16" else "f32"
            if runtime == "ONNX Runtime":
                return onnx_runner(path, self.threads)
            return openvino_runner(path, execution, self.threads)
        if maker == "ours":
            target, precision = rest.split()
            report = read_report(self.output)
            assert report is not None
            (record,) = [one for one in report.engines if (one.target, one.precision) == (target, precision)]
            runner = engine_runner(target, precision, self.output / record.file, self.threads)
            assert runner is not None
            return runner
        torch.set_num_threads(self.threads)
        model = load_checkpoint(self.checkpoint).build()
        return pytorch_runner(model) if name == EAGER else _compiled(DecodedNetwork(model).eval())


def _compiled(network: DecodedNetwork) -> Runner:
    compiled = torch.compile(network)

    def run(images: NDArray[np.float32]) -> EngineOutput:
        with torch.inference_mode():
            return EngineOutput(*(output.numpy() for output in compiled(torch.from_numpy(images))))

    return run


def noise(contract: Contract, batch: int) -> NDArray[np.float32]:
    """Images for timing: (batch, 3, S, S)."""
    return np.random.default_rng(0).standard_normal((batch, *contract.network_input.shape), np.float32)


def main() -> None:
    """Load one contender, run it on a batch, print the process' peak memory in MB: `python -m bench.contenders`."""
    parser = argparse.ArgumentParser(prog="python -m bench.contenders", description=main.__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("name")
    options = parser.parse_args()
    report = read_report(options.output)
    assert report is not None
    images = noise(Contract.from_fields(report.contract), options.batch)
    runner = Contenders(options.checkpoint, options.output, options.threads).load(options.name)
    for _ in range(3):
        runner(images)
    print(json.dumps({"peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Of this process since it began; `getrusage` would count the process that started it too."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())
