"""List the kinds of engine that an exported network can be built into, and open what was built."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

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
from deploy.engines.tensorrt_target import TensorRtTarget
from deploy.engines.torch_tensorrt import TorchTensorRtTarget
from model import MultiTaskResFormer
from model.network import DecodedNetwork

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


def pytorch_runner(model: MultiTaskResFormer) -> Runner:
    """Run `model` in fp32, neither folded nor exported, on PyTorch's own number of threads."""
    network = DecodedNetwork(model).eval()

    def run(images: NDArray[np.float32]) -> EngineOutput:
        with torch.inference_mode():
            return EngineOutput(*(output.numpy() for output in network(torch.from_numpy(images))))

    return run


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
