"""Run the network in an OpenVINO session, one image at a time."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray
from tritonclient.utils import triton_to_np_dtype

from deploy.contract import Contract

Outputs = dict[str, NDArray[np.generic]]


class Network:
    """Infer with a `.onnx` or `.xml` file that is compiled for this CPU."""

    def __init__(self, path: Path, contract: Contract, *, precision: str = "f32", threads: int = 0) -> None:
        """Compile the network.

        Args:
            path: the network's file.
            contract: its inputs and outputs.
            precision: what OpenVINO may compute in ("f32", "bf16", "f16").
            threads: 0 takes every core.
        """
        model = openvino.Core().read_model(path)
        # A batch gains nothing on a CPU, and a fixed shape lets OpenVINO plan its memory ahead.
        model.reshape([1, *contract.network_input.shape])
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            # Pinned, the threads of every worker would share the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        self._contract = contract
        self._request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def __call__(self, images: Iterable[NDArray[np.float32]], rows: int, wanted: set[str]) -> Outputs:
        """Infer a batch, taking its images one by one.

        Args:
            images: `rows` images, each (3, S, S) FP32.
            rows: size of the batch.
            wanted: names of the outputs to compute.

        Returns:
            Each wanted output, (rows, ...).
        """
        specs = [spec for spec in self._contract.outputs if spec.name in wanted]
        stacked: Outputs = {spec.name: np.empty((rows, *spec.shape), triton_to_np_dtype(spec.dtype)) for spec in specs}
        for row, image in enumerate(images):
            # The results are views of OpenVINO's memory, which the next inference overwrites: copied at once.
            results = self._request.infer({0: image[None]}, share_inputs=True, share_outputs=True)
            for name, output in stacked.items():
                output[row] = results[name][0]
        return stacked
