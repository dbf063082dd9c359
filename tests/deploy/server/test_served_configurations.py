"""Hold what the real server answers to PyTorch, over drawn configurations, batches and extreme inputs."""

from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploy.contract import NETWORK_MODEL, Contract
from deploy.engines import TARGETS, BuildRequest, EngineOutput, cpu_runner, execution, pytorch_runner
from deploy.export import export_onnx
from deploy.repository import write_repository
from deploy.server import Server
from deploy.server.options import FREE_PORTS
from deploy.verify import broken_tolerances, compare
from deploy.verify.golden import make_golden
from model import ModelConfig
from tests.helpers.configurations import DRAWN, configurations, served_contract, undecided

MAX_BATCH = 8
SIZES = tuple(range(32, 161, 16))


def inputs(contract: Contract, rows: int) -> NDArray[np.float32]:
    """Make a batch of black and white images, noise, and noise of ten thousand times its scale, in turn."""
    shape = contract.network_input.shape
    mean, std = (
        np.array(values, np.float32)[:, None, None]
        for values in (contract.preprocessing.mean, contract.preprocessing.std)
    )
    noise = np.random.default_rng(rows).standard_normal((2, *shape), np.float32)
    kinds = [np.broadcast_to(-mean / std, shape), np.broadcast_to((1 - mean) / std, shape), noise[0], 1e4 * noise[1]]
    # Another kind comes first for each size of batch, so that each meets every place.
    batch: NDArray[np.float32] = np.stack([kinds[(rows + place) % len(kinds)] for place in range(rows)])
    return batch


def served(server: Server, contract: Contract, images: NDArray[np.float32]) -> EngineOutput:
    """Ask the network alone, without preprocessing."""
    tensor = grpc.InferInput(contract.network_input.name, images.shape, "FP32")
    tensor.set_data_from_numpy(images)
    names = [spec.name for spec in contract.outputs]
    with grpc.InferenceServerClient(server.grpc_url) as client:
        answer = client.infer(NETWORK_MODEL, [tensor], outputs=[grpc.InferRequestedOutput(name) for name in names])
    mask, class_probs, seg_probs = (answer.as_numpy(name) for name in names)
    return EngineOutput(mask, class_probs, seg_probs)


@pytest.mark.slow
@settings(DRAWN, max_examples=40)
@given(
    config=configurations((8, 16, 24), SIZES),
    target=st.sampled_from(["onnx", "openvino"]),
    rows=st.integers(1, MAX_BATCH),
)
def test_what_is_served_is_what_pytorch_computes(
    config: ModelConfig, target: str, rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("served")
    model, contract = undecided(config), served_contract(config, MAX_BATCH)
    file = folder / "model.onnx"
    export_onnx(model, contract, file)
    if target != "onnx":
        request = BuildRequest(model=model, onnx=file, contract=contract, precision="fp32", threads=2)
        file = folder / "openvino.fp32.xml"
        TARGETS[target].build(request, file, lambda phase, share: None)
    computed = execution(target, "fp32")
    assert computed is not None
    images = inputs(contract, rows)
    expected = pytorch_runner(model)(images)
    golden = make_golden(contract, pytorch_runner(model), cpu_runner(file, computed, 2), "fp32")
    with Server(write_repository(folder, contract, file, golden, execution=computed), FREE_PORTS) as server:
        answer = served(server, contract, images)
    for row in range(rows):
        one = slice(row, row + 1)
        assert not broken_tolerances("fp32", compare(expected.take(one), answer.take(one))), f"row {row} of {rows}"
