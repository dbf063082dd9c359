"""Run a TensorRT or TensorRT-RTX engine on torch CUDA tensors, replayed as CUDA graphs. Not yet run on a GPU."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deploy.engines.base import EngineOutput
from deploy.errors import BuildError
from deploy.network import check_finite

REASONS = {
    "VERSION_MISMATCH": "it was built by another version of TensorRT",
    "UNSUPPORTED_CC": "it was not built for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "this GPU's driver is too old for it",
    "OLD_CUDA_RUNTIME": "this machine's CUDA is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "this GPU's memory is too small for it",
    "MALFORMED_ENGINE": "it is no engine of this library, or was changed",
}


@dataclass(frozen=True)
class RecordedBatch:
    """Hold what runs the engine on batches of one size.

    image: the input's buffer on the GPU.
    outputs: the outputs' buffers on the GPU.
    launch: starts the engine from the one buffer to the others.
    """

    image: Tensor
    outputs: list[Tensor]
    launch: Callable[[], None]


class PlanRunner:
    """Map normalised images (B, 3, S, S) float32 in host memory to outputs in host memory.

    The first call with a batch size records it. A CUDA graph fixes the addresses it was recorded with, so each size has
    its own execution context and buffers (TensorRT developer guide, "CUDA Graphs").
    """

    def __init__(self, trt: Any, logger: Any, path: Path) -> None:
        """Load an engine with `trt`, the module that built it.

        Raises BuildError where the file is not an engine of that library or was not built for this GPU.
        """
        plan, self.trt, self.name = path.read_bytes(), trt, path.name
        self.runtime = trt.Runtime(logger)  # must outlive the engine
        check_plan(trt, self.runtime, plan, path.name)
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise BuildError(f"{path.name} cannot be loaded: {'; '.join(logger.errors) or 'no reason was given'}")
        # A graph cannot be recorded on the default stream.
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.batches: dict[int, RecordedBatch] = {}

    def __call__(self, images: NDArray[np.float32]) -> EngineOutput:
        check_finite(images)
        rows = len(images)
        if rows not in self.batches:
            self.batches[rows] = self._record(rows)
        batch = self.batches[rows]
        with torch.cuda.stream(self.stream):
            batch.image.copy_(torch.from_numpy(images))
            batch.launch()
            # The copies to the host wait for the stream.
            return EngineOutput(*(tensor.cpu().numpy() for tensor in batch.outputs))

    def layers(self) -> str:
        """Describe what TensorRT made of each layer as JSON (TensorRT developer guide, "Engine Inspector")."""
        information = self.engine.create_engine_inspector().get_engine_information(self.trt.LayerInformationFormat.JSON)
        return str(information)

    def _record(self, rows: int) -> RecordedBatch:
        context, records_itself = self._context()
        # The contract's order: the input, then the outputs as `EngineOutput` has them.
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        image = names[0]
        # The outputs' shapes are known only after the input's is set.
        context.set_input_shape(image, (rows, *tuple(context.get_tensor_shape(image))[1:]))
        buffers = [self._buffer(context, name) for name in names]

        def execute() -> None:
            if not context.execute_async_v3(self.stream.cuda_stream):
                raise BuildError(f"{self.name} failed in a batch of {rows}")

        with torch.cuda.stream(self.stream):
            execute()  # what is loaded or compiled on first use cannot be recorded
        self.stream.synchronize()
        launch = execute if records_itself else self._graph(execute)
        return RecordedBatch(buffers[0], buffers[1:], launch)

    def _context(self) -> tuple[Any, bool]:
        """Make an execution context, and tell whether it keeps CUDA graphs by itself."""
        # Those of TensorRT-RTX do when they are told to.
        if not hasattr(self.trt, "CudaGraphStrategy"):
            return self.engine.create_execution_context(), False
        config = self.engine.create_runtime_config()
        config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return self.engine.create_execution_context(config), True

    def _buffer(self, context: Any, name: str) -> Tensor:
        dtype = getattr(torch, np.dtype(self.trt.nptype(self.engine.get_tensor_dtype(name))).name)
        buffer = torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device="cuda")
        context.set_tensor_address(name, buffer.data_ptr())
        return buffer

    def _graph(self, execute: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            execute()
        return graph.replay


def check_plan(trt: Any, runtime: Any, plan: bytes | memoryview, name: str) -> None:
    """Raise BuildError with every reason that the library finds against a plan (`IRuntime.get_engine_validity`).

    Without a GPU the library looks only at the format.
    """
    # Older libraries do not have the call. They give their reason when the engine is loaded.
    if not hasattr(runtime, "get_engine_validity"):
        return
    _, diagnostics = runtime.get_engine_validity(plan)
    flags = trt.EngineInvalidityDiagnostics.__members__
    reasons = [reason for flag, reason in REASONS.items() if int(flags[flag]) & int(diagnostics)]
    if reasons:
        raise BuildError(f"{name} cannot be used: {'; '.join(reasons)}; build it again")
