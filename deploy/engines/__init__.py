"""The kinds of engine that an exported network can be built into."""

from deploy.engines.base import PRECISIONS, BuildRequest, EngineOutput, Runner, Target
from deploy.engines.onnx_runtime import onnx_runner
from deploy.engines.openvino_cpu import OpenVinoTarget
from deploy.engines.tensorrt_family import TensorRtTarget
from deploy.engines.torch_tensorrt_export import TorchTensorRtTarget

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        OpenVinoTarget(),
        TensorRtTarget("tensorrt-rtx", "tensorrt_rtx", builds_without_gpu=True),
        TensorRtTarget("tensorrt", "tensorrt", builds_without_gpu=False),
        TorchTensorRtTarget(),
    )
}

__all__ = ["PRECISIONS", "TARGETS", "BuildRequest", "EngineOutput", "Runner", "Target", "onnx_runner"]
