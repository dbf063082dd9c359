"""Run a TensorRT or TensorRT-RTX engine on torch CUDA tensors, replayed as CUDA graphs. Not yet run on a GPU."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deploy.contract import OUTPUTS
from deploy.engines.tensorrt_log import error_log
from deploy.errors import BuildError
from deploy.network import check_finite
from deploy.network.parity import EngineOutput

REASONS = {
    "VERSION_MISMATCH": "it was built by another version of TensorRT",
    "UNSUPPORTED_CC": "it was not built for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "this GPU's driver is too old for it",
    "OLD_CUDA_RUNTIME": "this machine's CUDA is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "this GPU's memory is too small for it",
    "MALFORMED_ENGINE": "it is no engine of this library, or was changed",
}


# Those that are about the file. The others are about the GPU of this machine, which need not be the one it is for.
OF_THE_FILE = ("VERSION_MISMATCH", "MALFORMED_ENGINE")
# A recorded batch size holds memory for the engine's largest one.
KEPT_BATCHES = 4


def as_is(*outputs: Tensor) -> Sequence[Tensor]:
    """Return the outputs of an engine that computes all of `EngineOutput` itself."""
    return outputs


@dataclass(frozen=True, kw_only=True)
class RecordedBatch:
    """Hold what runs the engine on batches of one size.

    context: the library's execution context, which owns memory that a CUDA graph goes on using without holding it.
    buffers: the tensors on the GPU that it reads and writes, by name.
    launch: starts the engine from its input to its outputs.
    """

    context: Any
    buffers: dict[str, Tensor]
    launch: Callable[[], None]


class PlanRunner:
    """Map normalised images (B, 3, S, S) float32 in host memory to outputs in host memory.

    The first call with a batch size records it. A CUDA graph fixes the addresses it was recorded with, so each size has
    its own execution context and buffers (TensorRT developer guide, "CUDA Graphs"), and the latest few are kept.
    """

    def __init__(
        self, trt: Any, path: Path, outputs: Sequence[str] = OUTPUTS, finish: Callable[..., Sequence[Tensor]] = as_is
    ) -> None:
        """Load an engine.

        Args:
            trt: the module of the library that built it.
            path: the engine's file.
            outputs: names of its outputs.
            finish: makes the mask, class_probs and seg_probs of `EngineOutput` of those outputs.

        Raises:
            BuildError: the file is not an engine of that library, or was not built for this GPU.
        """
        plan, self.trt, self.name = path.read_bytes(), trt, path.name
        self.outputs, self.finish, log = outputs, finish, error_log(trt)
        log.take_errors()  # those of an earlier engine say nothing about this one
        self.runtime = trt.Runtime(log)  # must outlive the engine
        check_plan(trt, self.runtime, plan, path.name)
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise BuildError(f"{path.name} cannot be loaded: {log.take_errors()}")
        self.input = input_name(trt, self.engine, outputs, path.name)
        # A graph cannot be recorded on the default stream.
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.batches: dict[int, RecordedBatch] = {}

    def __call__(self, images: NDArray[np.float32]) -> EngineOutput:
        check_finite(images)
        rows = len(images)
        if rows not in self.batches:
            # Dropped before the next one asks for memory.
            while len(self.batches) >= KEPT_BATCHES:
                self.batches.pop(next(iter(self.batches)))
            self.batches[rows] = self._record(rows)
        batch = self.batches[rows]
        with torch.cuda.stream(self.stream):
            batch.buffers[self.input].copy_(torch.from_numpy(images))
            batch.launch()
            finished = self.finish(*(batch.buffers[name] for name in self.outputs))
            # The copies to the host wait for the stream.
            return EngineOutput(*(tensor.cpu().numpy() for tensor in finished))

    def layers(self) -> str:
        """Describe what TensorRT made of each layer as JSON (TensorRT developer guide, "Engine Inspector")."""
        information = self.engine.create_engine_inspector().get_engine_information(self.trt.LayerInformationFormat.JSON)
        return str(information)

    def _record(self, rows: int) -> RecordedBatch:
        context, records_itself = self._context()
        self._require(context is not None, f"has no execution context for a batch of {rows}")
        # The first profile is for a single image, the last one for any batch.
        profile = 0 if rows == 1 else self.engine.num_optimization_profiles - 1
        done = context.set_optimization_profile_async(profile, self.stream.cuda_stream)
        self._require(done, f"has no profile {profile}")
        self.stream.synchronize()
        shape = (rows, *tuple(self.engine.get_tensor_shape(self.input))[1:])
        self._require(context.set_input_shape(self.input, shape), f"takes no batch of {rows}")
        # The outputs' shapes are known only after the input's is set.
        buffers = {name: self._buffer(context, name) for name in (self.input, *self.outputs)}

        def execute() -> None:
            self._require(context.execute_async_v3(self.stream.cuda_stream), f"failed in a batch of {rows}")

        with torch.cuda.stream(self.stream):
            execute()  # what is loaded or compiled on first use cannot be recorded
        self.stream.synchronize()
        launch = execute if records_itself else self._graph(execute)
        return RecordedBatch(context=context, buffers=buffers, launch=launch)

    def _context(self) -> tuple[Any, bool]:
        """Make an execution context, or None as the library does, and tell whether it keeps CUDA graphs by itself."""
        # Those of TensorRT-RTX do when they are told to.
        if not hasattr(self.trt, "CudaGraphStrategy"):
            return self.engine.create_execution_context(), False
        config = self.engine.create_runtime_config()
        config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # By default the first calls run fallback kernels while those of the shape are compiled. What is verified and
        # timed must be what will run.
        config.dynamic_shapes_kernel_specialization_strategy = self.trt.DynamicShapesKernelSpecializationStrategy.EAGER
        return self.engine.create_execution_context(config), True

    def _buffer(self, context: Any, name: str) -> Tensor:
        dtype = getattr(torch, np.dtype(self.trt.nptype(self.engine.get_tensor_dtype(name))).name)
        buffer = torch.empty(tuple(context.get_tensor_shape(name)), dtype=dtype, device="cuda")
        self._require(context.set_tensor_address(name, buffer.data_ptr()), f"takes no buffer for {name}")
        return buffer

    def _require(self, done: bool, failure: str) -> None:
        """Raise BuildError with the library's reasons unless a call of it succeeded."""
        if not done:
            raise BuildError(f"{self.name} {failure}: {error_log(self.trt).take_errors()}")

    def _graph(self, execute: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            execute()
        return graph.replay


def input_name(trt: Any, engine: Any, outputs: Sequence[str], file: str) -> str:
    """Return the name of an engine's only input, or raise BuildError where its outputs are not those."""
    # By name and mode: nothing promises the order in which an engine lists its tensors.
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    found = [name for name in names if name not in inputs]
    if len(inputs) != 1 or sorted(found) != sorted(outputs):
        raise BuildError(f"{file} must have one input and the outputs {', '.join(outputs)}, got {inputs} and {found}")
    return str(inputs[0])


def check_plan(
    trt: Any, runtime: Any, plan: bytes | memoryview, name: str, flags: Collection[str] = tuple(REASONS)
) -> None:
    """Raise BuildError with every one of the library's reasons against a plan, of those that are asked for."""
    if reasons := [REASONS[flag] for flag in invalidity(trt, runtime, plan) if flag in flags]:
        raise BuildError(f"{name} cannot be used: {'; '.join(reasons)}; build it again")


def invalidity(trt: Any, runtime: Any, plan: bytes | memoryview) -> list[str]:
    """List the library's reasons against a plan on this machine, by their names in `REASONS`.

    See `IRuntime.get_engine_validity`. Without a GPU the library looks only at the format.
    """
    # Older libraries do not have the call. They give their reason when the engine is loaded.
    if not hasattr(runtime, "get_engine_validity"):
        return []
    _, diagnostics = runtime.get_engine_validity(plan)
    flags = trt.EngineInvalidityDiagnostics.__members__
    return [flag for flag in REASONS if int(flags[flag]) & int(diagnostics)]
