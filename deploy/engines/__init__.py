"""List the kinds of engine that an exported network can be built into, and open what was built."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from deploy.engines.base import (
    PRECISIONS,
    QUANTIZED,
    BuildRequest,
    EngineRequest,
    GpuOptions,
    Progress,
    Runner,
    Target,
)
from deploy.engines.openvino_cpu import OpenVinoTarget
from deploy.engines.tensorrt_target import RTX_GPUS, TensorRtTarget
from deploy.engines.torch_tensorrt import TorchTensorRtTarget
from deploy.network import Network, check_finite
from deploy.network.parity import EngineOutput
from model import MultiTaskResFormer
from model.inference import with_attention
from model.network import DecodedNetwork

ONNX = "onnx"
"""The export itself. It is no `Target`: every target is built from it."""

# In the order in which a build without --target makes them.
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        OpenVinoTarget(),
        TensorRtTarget("tensorrt-rtx", "tensorrt_rtx", builds_without_gpu=True, runs_on=RTX_GPUS),
        TensorRtTarget("tensorrt", "tensorrt", builds_without_gpu=False),
        TorchTensorRtTarget(),
    )
}


def execution(target: str, precision: str) -> str | None:
    """Name the execution of `deploy.network` that runs an engine on a CPU, or return None for an engine of a GPU."""
    if target != ONNX:
        return TARGETS[target].execution(precision)
    # ONNX Runtime has no bfloat16 convolution on a CPU. OpenVINO reads the rounded weights and computes in float32.
    return {"bf16": "openvino f32", "fp8": "onnxruntime literal"}.get(precision, "onnxruntime")


def engine_runner(target: str, precision: str, path: Path, threads: int) -> Runner | None:
    """Open a built engine, or return None where this machine can build but not run it."""
    name = execution(target, precision)
    return cpu_runner(path, name, threads) if name else TARGETS[target].runner(path)


def cpu_runner(file: Path | bytes, execution: str, threads: int) -> Runner:
    """Open a network's file as the server does, with the arguments of `Network`."""
    network = Network(file, execution, threads)

    def run(images: NDArray[np.float32]) -> EngineOutput:
        outputs = network(images, len(images))
        return EngineOutput(*(outputs[name] for name in network.outputs))

    return run


def onnx_version() -> str:
    """Name the runtime that checks the ONNX file, and its version."""
    return f"onnxruntime {onnxruntime.__version__}"


def pytorch_runner(model: MultiTaskResFormer) -> Runner:
    """Run `model` in fp32, neither folded nor exported: on this machine's GPU, else on PyTorch's own threads."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # A copy on a GPU, because the model itself is still to be exported. None of our kernels is in it: all engines are
    # held to it, also those that have them.
    network = DecodedNetwork(with_attention(model, "reference").to(device) if device == "cuda" else model).eval()

    def run(images: NDArray[np.float32]) -> EngineOutput:
        check_finite(images)
        with torch.inference_mode(), _without_tf32():
            return EngineOutput(*(output.cpu().numpy() for output in network(torch.from_numpy(images).to(device))))

    return run


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Keep float32 numbers from being multiplied with the 10 bits of TF32.

    cuDNN does so by default, and cuBLAS in NVIDIA's containers, which set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE.
    """
    libraries: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [library.allow_tf32 for library in libraries]
    for library in libraries:
        library.allow_tf32 = False
    try:
        yield
    finally:
        for library, allowed in zip(libraries, before, strict=True):
            library.allow_tf32 = allowed


__all__ = [
    "ONNX",
    "PRECISIONS",
    "QUANTIZED",
    "TARGETS",
    "BuildRequest",
    "EngineOutput",
    "EngineRequest",
    "GpuOptions",
    "Progress",
    "Runner",
    "Target",
    "cpu_runner",
    "engine_runner",
    "execution",
    "onnx_version",
    "pytorch_runner",
]
