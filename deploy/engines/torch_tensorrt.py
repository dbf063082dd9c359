"""Build a TensorRT engine with Torch-TensorRT, from the exported PyTorch program and without ONNX in between.

Not yet run on a GPU.
"""

import importlib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from deploy.engines.base import BuildRequest, EngineRequest, Precision, Progress, Target
from deploy.export import EXPORT_DTYPES, ExportedNetwork
from deploy.plugins import ATTENTION, DILATED


class TorchTensorRtTarget(Target):
    """Build serialised TensorRT engines (`convert_exported_program_to_serialized_trt_engine` of Torch-TensorRT)."""

    name = "torch-tensorrt"
    suffix = ".engine"
    precisions: tuple[Precision, ...] = ("fp32", "tf32", "fp16")
    takes_plugins = True

    def check(self, request: EngineRequest) -> list[str]:
        """List the general reasons, and a missing package or GPU."""
        # `torch_tensorrt` starts CUDA when it is imported, so it is only looked for, and only where a GPU is.
        if not torch.cuda.is_available():
            return ["torch-tensorrt builds on the GPU it will run on, and this machine has none; use tensorrt-rtx here"]
        if find_spec("torch_tensorrt") is None:
            return ["torch-tensorrt is not installed; run: pip install 'resformer-deploy[gpu]'"]
        return super().check(request)

    def version(self) -> str:
        """Name Torch-TensorRT and its version."""
        return f"torch-tensorrt {version('torch-tensorrt')}"

    def build(self, request: BuildRequest, path: Path, progress: Progress) -> None:
        """Trace the network on the GPU and convert the program."""
        torch_tensorrt = importlib.import_module("torch_tensorrt")
        if request.gpu.plugins:
            _register_converters(torch_tensorrt)
        network = ExportedNetwork(request.model, EXPORT_DTYPES[request.precision], plugins=request.gpu.plugins).cuda()
        spec = request.contract.network_input
        # Two images: an example of one would make torch.export specialise the batch.
        example = torch.zeros(min(2, request.contract.max_batch), *spec.shape, device="cuda")
        dynamic = request.contract.max_batch > 1
        batch = torch.export.Dim("batch", min=1, max=request.contract.max_batch)
        program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},) if dynamic else None)
        # Tuned for one image, as `tensorrt_builder` does.
        shapes = {"min_shape": (1, *spec.shape), "opt_shape": (1, *spec.shape)}
        image = torch_tensorrt.Input(**shapes, max_shape=(request.contract.max_batch, *spec.shape))
        engine = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
            program,
            inputs=[image],
            disable_tf32=request.precision != "tf32",
            hardware_compatible=request.gpu.any_gpu,
            optimization_level=request.gpu.optimization_level,
            timing_cache_path=str(request.timing_cache),
        )
        path.write_bytes(engine)


def _register_converters(torch_tensorrt: Any) -> None:
    """Convert the kernels' two operators to their plugins (Torch-TensorRT manual, "AOT plugins")."""
    # A converter looks its plugin up by name, so the plugins are registered first.
    importlib.import_module("deploy.plugins.registration").register_plugins()
    for plugin in (ATTENTION, DILATED):
        torch_tensorrt.dynamo.conversion.plugins.generate_plugin_converter(plugin, use_aot_if_available=True)
