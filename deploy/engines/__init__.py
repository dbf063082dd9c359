"""List the kinds of engine that an exported network can be built into, and open what was built."""

from pathlib import Path

import numpy as np
import onnxruntime
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


def onnx_runner(model: Path | bytes, threads: int, *, literal: bool = False) -> Runner:
    """Open an ONNX file, or its bytes, in ONNX Runtime on the CPU, with the arguments of `open_session`."""
    session = open_session(model, threads, literal=literal)
    (model_input,) = session.get_inputs()

    def run(images: NDArray[np.float32]) -> EngineOutput:
        return EngineOutput(*session.run(None, {model_input.name: images}))

    return run


def open_session(model: Path | bytes, threads: int = 0, *, literal: bool = False) -> onnxruntime.InferenceSession:
    """Open a session on the CPU.

    Args:
        model: an ONNX file or its bytes.
        threads: 0 is every core.
        literal: compute what the file says, node by node. FP8 needs it: the runtime's fusions take its Q/DQ for INT8's.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Engines take turns on the same cores. Without this the idle one's threads spin through the other's time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # it warns of every float16 constant that it does not fold
    if literal:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_version() -> str:
    """Name the runtime that checks the ONNX file, and its version."""
    return f"onnxruntime {onnxruntime.__version__}"


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
    "open_session",
    "pytorch_runner",
]
