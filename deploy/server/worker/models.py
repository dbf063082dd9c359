"""The two served models. A repository's `model.py` imports one as `TritonPythonModel`, the name the server asks for."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from data_pipeline import ImageError, Preprocessor
from deploy.contract import PROBE_ID, Contract
from deploy.server.worker.network import Network

LONGEST_ID = 128


class NetworkModel:
    """`resformer_network`: normalised images in, the network's outputs out."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called once by the server: compile the network that lies beside the model file."""
        if int(np.__version__.split(".")[0]) >= 2:
            # The backend's compiled half was built for numpy 1: under 2 it sends 0 bytes and reads every input as ones.
            raise RuntimeError(f"the server's Python backend needs numpy below 2, found {np.__version__}")
        parameters = self.parameters = {
            name: value["string_value"] for name, value in json.loads(args["model_config"])["parameters"].items()
        }
        self.contract = Contract.from_json(parameters["contract"])
        self.network = Network(
            Path(args["model_repository"]) / args["model_version"] / parameters["network"],
            self.contract,
            precision=parameters["precision"],
            threads=int(parameters.get("threads", 0)),
        )
        self.rejected = pb_utils.MetricFamily(
            name="resformer_rejected_images_total",
            description="Images that could not be used",
            kind=pb_utils.MetricFamily.COUNTER,
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Called by the server with the waiting requests: one response each."""
        return [self._respond(request) for request in requests]

    def images(self, request: Any) -> tuple[Iterator[NDArray[np.float32]], int]:
        """The request's normalised images and how many they are."""
        batch = read(request, self.contract.network_input.name)
        return iter(batch), len(batch)

    def _respond(self, request: Any) -> Any:
        begin, rejected = time.monotonic(), ""
        try:
            outputs = self.network(*self.images(request), set(request.requested_output_names()))
        except ImageError as error:
            rejected = error.reason
            self.rejected.Metric(labels={"reason": rejected}).increment(1)
            return refuse(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            rejected = "internal"
            # Left uncaught, the server would send the traceback, with this machine's paths, to the client.
            pb_utils.Logger.log_error(f"request {request.request_id()!r}: {type(error).__name__}: {error}")
            return refuse("the server failed on this request; its log says why", pb_utils.TritonError.INTERNAL)
        finally:
            log_request(request.request_id(), rejected, time.monotonic() - begin)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])


class ImageModel(NetworkModel):
    """`resformer`: encoded images in, the network's outputs out, decoded by the graph that training used."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called once by the server: as for the network, and build the preprocessing pipeline."""
        super().initialize(args)
        self.max_bytes = int(self.parameters.get("max_request_bytes", sys.maxsize))
        contract = self.contract
        self.preprocess = Preprocessor(contract.preprocessing)

    def images(self, request: Any) -> tuple[Iterator[NDArray[np.float32]], int]:
        """The request's images, decoded one by one as the network takes them, and how many they are."""
        rows = read(request, self.contract.encoded_image.name)
        if rows.nbytes > self.max_bytes:
            message = f"the request holds {rows.nbytes:,} bytes of images, more than the limit of {self.max_bytes:,}"
            raise ImageError(message, "too_many_bytes")
        return (self.preprocess(row.tobytes()) for row in rows), len(rows)


def read(request: Any, name: str) -> NDArray[Any]:
    """An input tensor as a view of the server's shared memory."""
    array: NDArray[Any] = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
    return array


def log_request(identity: str, rejected: str, seconds: float) -> None:
    """One line of JSON for the server's log, whichever way the request came."""
    if identity != PROBE_ID:
        line = {"request": identity[:LONGEST_ID], "rejected": rejected, "milliseconds": round(1000 * seconds, 1)}
        print(json.dumps(line), flush=True)


def refuse(message: str, code: int) -> Any:
    """A response that carries one line of explanation and nothing else."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
