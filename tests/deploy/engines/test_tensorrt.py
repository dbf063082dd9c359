"""Test TensorRT's builder and engine files through TensorRT-RTX, which builds without a GPU."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from deploy.engines import TARGETS, BuildRequest, EngineRequest, GpuOptions, cpu_runner
from deploy.engines.tensorrt_builder import _configuration, _set_timing_cache
from deploy.engines.tensorrt_log import error_log
from deploy.engines.tensorrt_runner import check_plan
from deploy.engines.tensorrt_target import RTX_GPUS, TensorRtTarget
from deploy.errors import BuildError
from model import build_model
from tests.helpers.networks import SMALLEST
from tests.helpers.smallest import CONTRACT

trt = pytest.importorskip("tensorrt_rtx")
RTX = TARGETS["tensorrt-rtx"]


def build(path: Path, onnx: Path, precision: str = "fp32", **options: Any) -> Path:
    """Build an engine of the smallest network and return its path."""
    request = BuildRequest(
        model=build_model(SMALLEST), onnx=onnx, contract=CONTRACT, precision=precision, gpu=GpuOptions(**options)
    )
    RTX.build(request, path, lambda phase, share: None)
    return path


@pytest.fixture(scope="module")
def plan(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Build the fp32 engine once and return its bytes."""
    return build(tmp_path_factory.mktemp("plan") / "engine", exported).read_bytes()


def test_tf32_is_another_engine_than_fp32(plan: bytes, exported: Path, tmp_path: Path) -> None:
    """Compare the two files: the builder's own default for fp32 would be TF32."""
    assert build(tmp_path / "engine", exported, "tf32").read_bytes() != plan


def test_a_process_has_one_logger_and_every_message_is_taken_once() -> None:
    log = error_log(trt)
    # The library keeps the first logger that it is given, so that a second one would never hear of an error.
    assert error_log(trt) is log
    log.take_errors()  # of tests before
    log.log(trt.ILogger.Severity.ERROR, "first")
    log.log(trt.ILogger.Severity.INFO, "not an error")
    log.log(trt.ILogger.Severity.INTERNAL_ERROR, "second")
    assert [log.take_errors(), log.take_errors()] == ["first; second", "it gave no reason"]


@pytest.mark.parametrize("known", ["damaged", "of another GPU"])
def test_a_timing_cache_of_no_use_is_replaced_by_an_empty_one(known: str) -> None:
    """Imitate a builder's configuration: TensorRT-RTX times nothing."""
    config = Mock()
    config.create_timing_cache.side_effect = lambda content: None if content == b"damaged" else content
    config.set_timing_cache.side_effect = lambda cache, ignore_mismatch: cache == b""
    _set_timing_cache(config, known.encode())
    config.set_timing_cache.assert_called_with(b"", ignore_mismatch=False)


@pytest.mark.parametrize(("max_batch", "count"), [(1, 1), (4, 2)])
def test_a_builder_expects_one_image_and_a_full_batch(max_batch: int, count: int, tmp_path: Path) -> None:
    contract = dataclasses.replace(CONTRACT, max_batch=max_batch)
    request = BuildRequest(
        model=build_model(SMALLEST), onnx=tmp_path / "model.onnx", contract=contract, precision="fp32"
    )
    config = _configuration(trt, trt.Builder(error_log(trt)), request)
    assert config.num_optimization_profiles == count


def test_an_engine_of_this_library_is_not_refused(plan: bytes) -> None:
    check_plan(trt, trt.Runtime(error_log(trt)), plan, "some.engine")


@pytest.mark.parametrize(
    ("capability", "runs"), [((8, 0), False), ((9, 0), False), ((10, 0), False), ((8, 9), True), ((12, 0), True)]
)
def test_engines_for_rtx_gpus_are_only_built_on_others(
    capability: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device=None: capability)
    assert RTX.runs_here is runs
    assert RTX.check(EngineRequest(precision="fp32")) == []


@pytest.mark.parametrize("length", [0, 8, 40])
def test_a_file_that_is_no_engine_is_refused(length: int, plan: bytes) -> None:
    damaged = b"no engine at all"[:length].ljust(length) + plan[length:] if length else b""
    with pytest.raises(BuildError, match=r"^some\.engine cannot be used: it is no engine of this library"):
        check_plan(trt, trt.Runtime(error_log(trt)), damaged, "some.engine")


@pytest.mark.parametrize(
    ("diagnostics", "reason"),
    [
        (["VERSION_MISMATCH"], "it was built by another version of TensorRT"),
        (["UNSUPPORTED_CC"], "it was not built for this GPU's compute capability"),
        (["VERSION_MISMATCH", "OLD_CUDA_DRIVER"], "another version of TensorRT; this GPU's driver is too old for it"),
    ],
    ids=" ".join,
)
def test_an_engine_of_another_version_or_gpu_is_refused(diagnostics: list[str], reason: str) -> None:
    """Imitate the library's diagnostics, which it gives on a GPU only."""
    flags = sum(int(trt.EngineInvalidityDiagnostics.__members__[name]) for name in diagnostics)
    runtime = SimpleNamespace(get_engine_validity=lambda plan: (trt.EngineValidity.INVALID, flags))
    with pytest.raises(BuildError, match=f"^some\\.engine cannot be used: .*{reason}; build it again$"):
        check_plan(trt, runtime, b"", "some.engine")


def test_an_engine_for_another_gpu_is_built_and_not_opened(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Imitate a machine whose GPU is not the one that is built for, which the library finds against the engine."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device=None: (8, 9))
    flag = int(trt.EngineInvalidityDiagnostics.__members__["UNSUPPORTED_CC"])
    runtime = SimpleNamespace(get_engine_validity=lambda plan: (trt.EngineValidity.INVALID, flag))
    monkeypatch.setattr(trt, "Runtime", lambda log: runtime)
    path = build(tmp_path / "engine", exported, compute_capabilities=("8.6",))
    assert RTX.runs_here and RTX.runner(path) is None
    with pytest.raises(BuildError, match="not built for this GPU"):
        check_plan(trt, runtime, b"", "some.engine")


@pytest.mark.parametrize(("capability", "refused"), [((8, 6), True), ((8, 9), False), ((12, 0), False)])
def test_fp8_is_refused_on_a_gpu_without_it(
    capability: tuple[int, int], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    reason = "tensorrt-rtx fp8 needs a GPU of compute capability 8.9 or later; this one has 8.6"
    assert RTX.check(EngineRequest(precision="fp8")) == ([reason] if refused else [])
    assert RTX.check(EngineRequest(precision="int8")) == []


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 3])
def test_an_engine_on_a_gpu_answers_as_onnx_runtime_does(rows: int, exported: Path, tmp_path: Path) -> None:
    assert isinstance(RTX, TensorRtTarget)
    if not RTX.runs_here:
        pytest.skip(f"TensorRT-RTX runs on GPUs of compute capability {', '.join(RTX_GPUS)}")
    run = RTX.runner(build(tmp_path / "engine", exported))
    assert run is not None
    images = np.random.default_rng(rows).standard_normal((rows, *CONTRACT.network_input.shape), np.float32)
    for _ in range(2):  # recorded, then replayed
        for actual, expected in zip(run(images)[1:], cpu_runner(exported, "onnxruntime", 1)(images)[1:], strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-4)
