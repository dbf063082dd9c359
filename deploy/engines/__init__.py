"""List the kinds of engine that an exported network can be built into."""

from pathlib import Path

from deploy.engines.base import (
    PRECISIONS,
    BuildRequest,
    EngineOutput,
    EngineRequest,
    GpuOptions,
    Progress,
    Runner,
    Target,
)
from deploy.engines.onnx_runtime import onnx_runner, onnx_version
from deploy.engines.openvino_cpu import OpenVinoTarget, openvino_runner
from deploy.engines.pytorch import pytorch_runner
from deploy.engines.tensorrt_target import TensorRtTarget
from deploy.engines.torch_tensorrt import TorchTensorRtTarget

__all__ = [
    "ONNX",
    "PRECISIONS",
    "TARGETS",
    "BuildRequest",
    "EngineOutput",
    "EngineRequest",
    "GpuOptions",
    "Progress",
    "Runner",
    "Target",
    "engine_runner",
    "onnx_runner",
    "onnx_version",
    "pytorch_runner",
]

ONNX = "onnx"
"""The export itself. It is no `Target`: every target is built from it."""

# In the order in which a build without --target makes them.
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        OpenVinoTarget(),
        TensorRtTarget("tensorrt-rtx", "tensorrt_rtx", builds_without_gpu=True),
        TensorRtTarget("tensorrt", "tensorrt", builds_without_gpu=False),
        TorchTensorRtTarget(),
    )
}


def engine_runner(target: str, precision: str, path: Path, threads: int) -> Runner | None:
    """Open a built engine, or return None where this machine can build but not run it."""
    if target != ONNX:
        return TARGETS[target].runner(path, precision, threads)
    # ONNX Runtime has no bfloat16 convolution on a CPU. OpenVINO reads the rounded weights and computes in float32.
    if precision == "bf16":
        return openvino_runner(path, "f32", threads)
    return onnx_runner(path, threads, literal=precision == "fp8")
