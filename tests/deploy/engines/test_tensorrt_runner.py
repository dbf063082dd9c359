"""Run the host code of TensorRT's runner against an imitation of the library, which opens no engine without a GPU."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deploy.contract import OUTPUTS
from deploy.engines import tensorrt_runner
from deploy.engines.tensorrt_runner import PlanRunner
from deploy.errors import BuildError

SIDE = 4
SHAPES = {"INPUT": (3, SIDE, SIDE), "MASK": (SIDE, SIDE), "CLASS_PROBS": (2,), "SEG_PROBS": (1, SIDE, SIDE)}
# As no two engines need list them, with the input in the middle.
LISTED = ("SEG_PROBS", "MASK", "INPUT", "CLASS_PROBS")


class Context:
    """Imitate an execution context. Calls named in `fail` return False."""

    def __init__(self, fail: str) -> None:
        self.fail, self.rows, self.profile, self.addresses = fail, 0, -1, dict[str, int]()
        self.buffers: dict[int, torch.Tensor] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return self.fail != "profile"

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "INPUT" and shape[1:] == SHAPES[name]
        self.rows = shape[0]
        return self.fail != "shape"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.rows, *SHAPES[name])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.fail != "address"

    def execute_async_v3(self, stream: int) -> bool:
        """Write to every output the number of its name's letters, so that an exchange is seen."""
        for name in OUTPUTS:
            self.buffers[self.addresses[name]].fill_(len(name))
        return self.fail != "execute"


def library(monkeypatch: pytest.MonkeyPatch, fail: str = "", listed: tuple[str, ...] = LISTED) -> tuple[Any, Context]:
    """Imitate a library with one engine, and PyTorch's part on the GPU."""
    context = Context(fail)
    made = None if fail == "context" else context
    types = {name: np.uint8 if name == "MASK" else np.float32 for name in listed}
    engine = SimpleNamespace(
        num_io_tensors=len(listed),
        num_optimization_profiles=2,
        get_tensor_name=lambda index: listed[index],
        get_tensor_mode=lambda name: "in" if name == "INPUT" else "out",
        get_tensor_dtype=lambda name: types[name],
        get_tensor_shape=lambda name: (-1, *SHAPES[name]),
        create_execution_context=lambda: made,
    )
    severity = SimpleNamespace(ERROR="error", INTERNAL_ERROR="internal")
    trt = SimpleNamespace(
        ILogger=type("ILogger", (), {"Severity": severity}),
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
        TensorIOMode=SimpleNamespace(INPUT="in"),
        nptype=lambda dtype: dtype,
    )

    def empty(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> torch.Tensor:
        buffer = torch.zeros(shape, dtype=dtype)
        context.buffers[buffer.data_ptr()] = buffer
        return buffer

    cuda = SimpleNamespace(
        Stream=lambda: SimpleNamespace(cuda_stream=7, synchronize=lambda: None),
        stream=lambda stream: nullcontext(),
        graph=lambda graph, stream: nullcontext(),
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: context.execute_async_v3(7)),
    )
    on_gpu = SimpleNamespace(
        cuda=cuda, empty=empty, from_numpy=torch.from_numpy, uint8=torch.uint8, float32=torch.float32
    )
    monkeypatch.setattr(tensorrt_runner, "torch", on_gpu)
    # A namespace cannot be a key of the cache.
    log = SimpleNamespace(take_errors=lambda: "its reason")
    monkeypatch.setattr(tensorrt_runner, "error_log", lambda trt: log)
    return trt, context


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Write a file that stands for an engine."""
    (tmp_path / "some.engine").write_bytes(b"engine")
    return tmp_path / "some.engine"


@pytest.mark.parametrize(("rows", "profile"), [(1, 0), (3, 1)])
def test_outputs_are_taken_by_name(rows: int, profile: int, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt, context = library(monkeypatch)
    run = PlanRunner(trt, plan)
    for _ in range(2):  # recorded, then replayed
        output = run(np.ones((rows, *SHAPES["INPUT"]), np.float32))
        for name, value in zip(OUTPUTS, output, strict=True):
            assert isinstance(value, np.ndarray) and value.shape == (rows, *SHAPES[name]) and (value == len(name)).all()
    assert context.profile == profile
    np.testing.assert_array_equal(run.batches[rows].buffers["INPUT"], np.ones((rows, *SHAPES["INPUT"])))


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("context", "has no execution context for a batch of 2"),
        ("profile", "has no profile 1"),
        ("shape", "takes no batch of 2"),
        ("address", "takes no buffer for INPUT"),
        ("execute", "failed in a batch of 2"),
    ],
)
def test_every_call_that_fails_is_an_error(
    fail: str, message: str, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt, _ = library(monkeypatch, fail)
    with pytest.raises(BuildError, match=f"^some.engine {message}: its reason$"):
        PlanRunner(trt, plan)(np.ones((2, *SHAPES["INPUT"]), np.float32))


def test_a_recorded_batch_keeps_its_context(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop every other reference: the graph goes on using the memory that the context owns, and does not hold it."""
    trt, context = library(monkeypatch)
    run = PlanRunner(trt, plan)
    run(np.ones((2, *SHAPES["INPUT"]), np.float32))
    assert run.batches[2].context is context


def test_rtx_compiles_what_is_verified_before_the_first_call(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    trt, context = library(monkeypatch)
    for name in ("CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy"):
        setattr(trt, name, getattr(rtx, name))
    run, config = PlanRunner(trt, plan), SimpleNamespace()
    run.engine.create_runtime_config = lambda: config
    run.engine.create_execution_context = lambda given: context
    run(np.ones((2, *SHAPES["INPUT"]), np.float32))
    assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    assert config.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"


def test_only_the_latest_batch_sizes_keep_their_memory(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt, _ = library(monkeypatch)
    run = PlanRunner(trt, plan)
    for rows in (1, 2, 3, 4, 5, 1):
        assert len(run(np.ones((rows, *SHAPES["INPUT"]), np.float32))[0]) == rows
    assert list(run.batches) == [3, 4, 5, 1]


def test_an_engine_with_other_outputs_is_refused(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt, _ = library(monkeypatch, listed=("INPUT", "output0", "output1"))
    with pytest.raises(BuildError, match=r"outputs MASK, CLASS_PROBS, SEG_PROBS, got \['INPUT'\] and \['output0'"):
        PlanRunner(trt, plan)
