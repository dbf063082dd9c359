"""TensorRT's builder and engine files, through TensorRT-RTX, which builds without a GPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.engines import TARGETS, BuildRequest, GpuOptions, onnx_runner
from deploy.engines.tensorrt_family import TensorRtTarget, collecting_logger
from deploy.engines.tensorrt_plan import check_plan
from deploy.errors import BuildError
from model import build_model
from tests.deploy.smallest import CONTRACT
from tests.networks import SMALLEST

trt = pytest.importorskip("tensorrt_rtx")
RTX = TARGETS["tensorrt-rtx"]


def build(path: Path, onnx: Path, precision: str = "fp32", **options: Any) -> Path:
    request = BuildRequest(build_model(SMALLEST), onnx, CONTRACT, precision, GpuOptions(**options))
    RTX.build(request, path, lambda phase, share: None)
    return path


@pytest.fixture(scope="module")
def plan(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return build(tmp_path_factory.mktemp("plan") / "engine", exported).read_bytes()


def test_tf32_is_another_engine_than_fp32(plan: bytes, exported: Path, tmp_path: Path) -> None:
    """fp32 must not be TF32 in disguise, which is the builder's default."""
    assert build(tmp_path / "engine", exported, "tf32").read_bytes() != plan


def test_an_engine_of_this_library_is_not_refused(plan: bytes) -> None:
    check_plan(trt, trt.Runtime(collecting_logger(trt)), plan, "some.engine")


@pytest.mark.parametrize("length", [0, 8, 40])
def test_a_file_that_is_no_engine_is_refused(length: int, plan: bytes) -> None:
    damaged = b"no engine at all"[:length].ljust(length) + plan[length:] if length else b""
    with pytest.raises(BuildError, match=r"^some\.engine cannot be used: it is no engine of this library"):
        check_plan(trt, trt.Runtime(collecting_logger(trt)), damaged, "some.engine")


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 3])
def test_an_engine_on_a_gpu_answers_as_onnx_runtime_does(rows: int, exported: Path, tmp_path: Path) -> None:
    assert isinstance(RTX, TensorRtTarget)
    run = RTX.runner(build(tmp_path / "engine", exported), "fp32", 1)
    assert run is not None
    images = np.random.default_rng(rows).standard_normal((rows, *CONTRACT.network_input.shape), np.float32)
    for _ in range(2):  # prepared, then replayed
        for found, expected in zip(run(images)[1:], onnx_runner(exported, 1)(images)[1:], strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4)
