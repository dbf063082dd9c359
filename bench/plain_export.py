"""Export the trained network as it is, and run it in ONNX Runtime and OpenVINO: what a user would do without us."""

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.contract import Contract
from deploy.engines import EngineOutput, Runner
from deploy.network.onnx_session import open_session
from deploy.network.openvino_session import core, read_model
from model import MultiTaskResFormer
from model.network import DecodedNetwork


def plain_export(model: MultiTaskResFormer, contract: Contract, path: Path) -> Path:
    """Write `model` in evaluation mode, neither folded nor rewritten, with only what the exporter does by itself."""
    network = DecodedNetwork(model).eval()
    shape = contract.network_input.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            # Two images, because the exporter takes a length of 1 for a constant.
            (torch.zeros(2, *shape),),
            input_names=[contract.network_input.name],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=contract.max_batch)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(path)
    return path


def onnxruntime_runner(file: Path, threads: int, batch: int) -> Runner:
    """Open an ONNX file in ONNX Runtime for batches of one size."""
    session = open_session(file, threads, batch=batch)
    (model_input,) = session.get_inputs()

    def run(images: NDArray[np.float32]) -> EngineOutput:
        return EngineOutput(*session.run(None, {model_input.name: images}))

    return run


def openvino_runner(file: Path, threads: int, batch: int, computed: str) -> Runner:
    """Open an ONNX file in OpenVINO for batches of one size, computed in "f32" or "bf16"."""
    model = read_model(file)
    shape = model.input().partial_shape
    shape[0] = batch
    model.reshape(shape)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": computed,
    }
    request = core().compile_model(model, "CPU", settings).create_infer_request()

    def run(images: NDArray[np.float32]) -> EngineOutput:
        # Copied, because the request overwrites its output buffers in the next run.
        return EngineOutput(*(np.array(value) for value in request.infer([images]).values()))

    return run
