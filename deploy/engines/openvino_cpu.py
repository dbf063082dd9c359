"""Build and run OpenVINO engines on the CPU: what the server runs where there is no GPU."""

from functools import cache
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from deploy.engines.base import BuildRequest, EngineOutput, EngineRequest, Precision, Progress, Runner, Target
from deploy.engines.openvino_winograd import use_winograd

EXECUTION_TYPE = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""The type that everything not quantised is computed in, when an engine is verified and when it is served."""


@cache
def core() -> openvino.Core:
    """Return the process's only `Core`."""
    # OpenVINO 2026.4 gives the thread another signal stack when a `Core` first compiles for a CPU, and restores the
    # previous one when that `Core` is destroyed. Two whose lives overlap leave a stack that was freed, and Ctrl-C is
    # then a segmentation fault.
    return openvino.Core()


class OpenVinoTarget(Target):
    """Build OpenVINO's own format: an `.xml` file with the graph, and a `.bin` file with float32 weights.

    The precision of such an engine is that of its execution.
    """

    name = "openvino"
    suffix = ".xml"
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "int8")

    @property
    def runs_here(self) -> bool:
        """Return True: OpenVINO runs on every processor that it installs on."""
        return True

    def version(self) -> str:
        """Name OpenVINO and its version."""
        return f"openvino {openvino.__version__}"

    def check(self, request: EngineRequest) -> list[str]:
        """List the general reasons, and refuse bf16 where the processor would only emulate it."""
        reasons, able = super().check(request), core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if request.precision == "bf16" and "BF16" not in able:
            need = "a CPU with bfloat16 instructions (AVX512_BF16 or AMX)"
            reasons.append(f"openvino bf16 needs {need}; this one has {able}")
        return reasons

    def onnx_precision(self, precision: Precision) -> Precision:
        """Start int8 from the quantised file, everything else from the float32 one."""
        return "int8" if precision == "int8" else "fp32"

    def build(self, request: BuildRequest, path: Path, progress: Progress) -> None:
        """Convert the ONNX file, with Winograd convolutions in fp32 where they are faster."""
        model = openvino.convert_model(request.onnx)
        # The two forms are timed in float32 only, so the choice says nothing about other types.
        if request.precision == "fp32":
            use_winograd(core(), model, request.threads, progress)
        # A note for people who open the file, which does not tell the type by itself.
        model.set_rt_info(EXECUTION_TYPE[request.precision], "resformer_execution")
        # The default would round the weights to float16.
        openvino.save_model(model, path, compress_to_fp16=False)

    def runner(self, path: Path, precision: Precision, threads: int) -> Runner:
        """Open the engine in the type that its precision is executed in."""
        return openvino_runner(path, EXECUTION_TYPE[precision], threads)


def openvino_runner(path: Path, execution: str, threads: int) -> Runner:
    """Open an OpenVINO or ONNX file as an engine on the CPU that computes in `execution` ("f32", "bf16")."""
    request = compiled_for_latency(path, execution, threads).create_infer_request()

    def run(images: NDArray[np.float32]) -> EngineOutput:
        # Copied, because the request overwrites its output buffers in the next run.
        return EngineOutput(*(np.array(value) for value in request.infer([images]).values()))

    return run


def compiled_for_latency(path: Path, execution: str, threads: int, *, profiled: bool = False) -> openvino.CompiledModel:
    """Compile a file as `openvino_runner` runs it, and with `profiled` keep each layer's time at some cost in speed."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Without it the plugin takes bf16 for float32 where the processor has it.
        "INFERENCE_PRECISION_HINT": execution,
        "PERF_COUNT": profiled,
    }
    return core().compile_model(path, "CPU", settings)
