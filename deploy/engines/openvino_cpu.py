"""Build and run OpenVINO engines on the CPU: what the server runs where there is no GPU."""

from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from deploy.engines.base import BuildRequest, EngineOutput, EngineRequest, Precision, Progress, Runner, Target
from deploy.engines.openvino_core import core
from deploy.engines.openvino_winograd import use_winograd

EXECUTION_TYPE = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""What is not quantised is computed in; verified with the same."""


class OpenVinoTarget(Target):
    """OpenVINO's own format (`.xml`, `.bin` beside it); weights stay float32, the precision is that of execution."""

    name = "openvino"
    suffix = ".xml"
    precisions = ("fp32", "bf16", "int8")

    @property
    def runs_here(self) -> bool:
        """OpenVINO runs on every processor that it installs on."""
        return True

    def version(self) -> str:
        return f"openvino {openvino.__version__}"

    def check(self, request: EngineRequest) -> list[str]:
        """Refuse bf16 as well where the processor would only emulate it."""
        reasons, able = super().check(request), core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if request.precision == "bf16" and "BF16" not in able:
            need = "a CPU with bfloat16 instructions (AVX512_BF16 or AMX)"
            reasons.append(f"openvino bf16 needs {need}; this one has {able}")
        return reasons

    def onnx_precision(self, precision: Precision) -> Precision:
        return "int8" if precision == "int8" else "fp32"

    def build(self, request: BuildRequest, path: Path, progress: Progress) -> None:
        model = openvino.convert_model(request.onnx)
        if request.precision == "fp32":
            use_winograd(model, request.threads, progress)
        model.set_rt_info(EXECUTION_TYPE[request.precision], "resformer_execution")
        openvino.save_model(model, path, compress_to_fp16=False)

    def runner(self, path: Path, precision: Precision, threads: int) -> Runner:
        return openvino_runner(path, EXECUTION_TYPE[precision], threads)


def openvino_runner(path: Path, execution: str, threads: int) -> Runner:
    """A callable that runs an OpenVINO or ONNX file on the CPU, computing in `execution` ("f32", "bf16")."""
    request = compiled_for_latency(path, execution, threads).create_infer_request()

    def run(images: NDArray[np.float32]) -> EngineOutput:
        # Copied, because the request overwrites its output buffers in the next run.
        return EngineOutput(*(np.array(value) for value in request.infer([images]).values()))

    return run


def compiled_for_latency(path: Path, execution: str, threads: int, *, profiled: bool = False) -> openvino.CompiledModel:
    """As `openvino_runner` runs it; profiled: each layer's time is kept, at some cost in time."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": execution,
        "PERF_COUNT": profiled,
    }
    return core().compile_model(path, "CPU", settings)
