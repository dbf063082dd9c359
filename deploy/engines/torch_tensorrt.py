"""Build a TensorRT engine with Torch-TensorRT, from the exported PyTorch program and without ONNX in between.

It is there to be compared with: its engine returns logits under names of the library's own, because the library
converts no cast to uint8 and lets nobody name outputs, so no server is given it. Not yet run on a GPU.
"""

import importlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from deploy.contract import Contract
from deploy.engines.base import BuildRequest, EngineRequest, Precision, Progress, Runner, Target
from deploy.engines.tensorrt_runner import PlanRunner
from deploy.errors import BuildError
from deploy.export import EXPORT_DTYPES
from deploy.simplify import simplify
from model import MultiTaskResFormer
from model.network import Prediction, decode

OUTPUTS = ("output0", "output1")  # as the library names the two logits


class TorchTensorRtTarget(Target):
    """Build serialised TensorRT engines (`convert_exported_program_to_serialized_trt_engine` of Torch-TensorRT)."""

    name = "torch-tensorrt"
    suffix = ".engine"
    precisions: tuple[Precision, ...] = ("fp32", "tf32", "fp16")
    by_default = False

    @property
    def runs_here(self) -> bool:
        """Tell whether this machine has a GPU."""
        return torch.cuda.is_available()

    def check(self, request: EngineRequest) -> list[str]:
        """List the general reasons, and a missing package or GPU."""
        # `torch_tensorrt` starts CUDA when it is imported, so it is only looked for, and only where a GPU is.
        if not self.runs_here:
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
        program = logits_program(request.model, request.contract, request.precision, "cuda")
        spec, largest = request.contract.network_input, request.contract.max_batch
        # It takes one profile, which is tuned for the image that someone waits for.
        cache = {"timing_cache_path": str(request.timing_cache)} if request.timing_cache else {}
        shapes = {"min_shape": (1, *spec.shape), "opt_shape": (1, *spec.shape), "max_shape": (largest, *spec.shape)}
        try:
            engine = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program,
                inputs=[torch_tensorrt.Input(**shapes)],
                disable_tf32=request.precision != "tf32",
                hardware_compatible=request.gpu.any_gpu,
                optimization_level=request.gpu.optimization_level,
                **cache,
            )
        except Exception as error:  # its converters raise whatever fails in them
            raise BuildError(f"Torch-TensorRT cannot convert the network: {' '.join(str(error).split())}") from error
        path.write_bytes(engine)

    def runner(self, path: Path) -> Runner | None:
        """Open the engine on this machine's GPU, or return None where there is none."""
        if not self.runs_here:
            return None
        return PlanRunner(importlib.import_module("tensorrt"), path, OUTPUTS, _decode)


class LogitsNetwork(nn.Module):
    """Run the rewritten network at `dtype` between a float32 image and float32 logits."""

    def __init__(self, model: MultiTaskResFormer, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        # Rewritten in float32 and cast last: casting first would round the batch norms' small variances.
        self.network = simplify(model).to(dtype)
        self.eval()

    def forward(self, image: Tensor) -> Prediction:
        """Map images (B, 3, S, S) float32 to logits."""
        segmentation, classification = self.network(image.to(self.dtype))
        return Prediction(segmentation.float(), classification.float())


def logits_program(
    model: MultiTaskResFormer, contract: Contract, precision: Precision, device: str
) -> torch.export.ExportedProgram:
    """Export the network without the decoding of its logits, for batches of 1 to `max_batch`."""
    network = LogitsNetwork(model, EXPORT_DTYPES[precision]).to(device)
    # Two images: an example of one would make torch.export specialise the batch.
    example = torch.zeros(min(2, contract.max_batch), *contract.network_input.shape, device=device)
    batch = torch.export.Dim("batch", min=1, max=contract.max_batch)
    return torch.export.export(network, (example,), dynamic_shapes=({0: batch},) if contract.max_batch > 1 else None)


def _decode(segmentation: Tensor, classification: Tensor) -> Sequence[Tensor]:
    return decode(Prediction(segmentation, classification))
