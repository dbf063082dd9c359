"""Check a server's health by inference.

The server's own health endpoints cannot be believed: with a dead worker it still reports itself live and ready, and the
model ready.
"""

import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import triton_to_np_dtype

from deploy.contract import NETWORK_MODEL, PIPELINE_MODEL, PROBE_ID, Contract, TensorSpec
from deploy.sample import sample_image
from deploy.server.errors import ServerError
from deploy.server.internal_endpoint import InternalEndpoint

Headers = dict[str, str]

# A worker's first inference may still compile kernels.
FIRST_SECONDS = 60.0
PATIENCE_SECONDS = 2.0


class Probe:
    """Send a generated image to the models of one server."""

    def __init__(self, internal: InternalEndpoint, contract: Contract) -> None:
        self._internal, self._contract = internal, contract
        self._patience: dict[str, float] = {}

    def first(self, model: str) -> None:
        """Check a model that was just loaded, and learn how long it may take.

        Raises ServerError where it does not answer.
        """
        self._infer(model, FIRST_SECONDS)
        # Timed on the second inference: the first includes what a worker prepares once.
        start = time.monotonic()
        self._infer(model, FIRST_SECONDS)
        # Twice the time of a full batch, whose images a worker takes one by one: a busy worker is not a dead one.
        self._patience[model] = PATIENCE_SECONDS + 2 * self._contract.max_batch * (time.monotonic() - start)

    def check(self, model: str) -> None:
        """Return where `model` answers or works through a queue, else raise ServerError."""
        done = self._executions(model)
        try:
            self._infer(model, self._patience[model])
        except ServerError:
            # Under load the probe waits its turn. Finished requests of others prove that the worker is alive.
            if self._executions(model) == done:
                raise

    def _infer(self, model: str, timeout: float) -> None:
        spec, values = _sample_input(model, self._contract)
        tensor = InferInput(spec.name, list(values.shape), spec.dtype)
        tensor.set_data_from_numpy(values)
        # The smallest output: the probe checks for life and needs no mask.
        requested = [InferRequestedOutput(self._contract.outputs[1].name)]
        body, length = InferenceServerClient.generate_request_body([tensor], outputs=requested, request_id=PROBE_ID)
        self._request(model, "POST", "infer", timeout, body, {"Inference-Header-Content-Length": str(length)})

    def _executions(self, model: str) -> int:
        """Count the executions that succeeded since the model was loaded."""
        statistics = json.loads(self._request(model, "GET", "stats", PATIENCE_SECONDS))["model_stats"]
        return sum(int(one["inference_stats"]["success"]["count"]) for one in statistics)

    def _request(
        self, model: str, method: str, action: str, timeout: float, body: bytes = b"", headers: Headers | None = None
    ) -> bytes:
        path = f"/v2/models/{model}/{action}"
        try:
            return self._internal.request(method, path, body, timeout=timeout, headers=headers)
        except ServerError as error:
            raise ServerError(f"model {model} does not answer: {error}") from None


def _sample_input(model: str, contract: Contract) -> tuple[TensorSpec, NDArray[Any]]:
    """Return the description of what `model` takes, and a batch of one.

    Raises ServerError for a model that no build writes.
    """
    if model == NETWORK_MODEL:
        spec = contract.network_input
        return spec, np.zeros((1, *spec.shape), triton_to_np_dtype(spec.dtype))
    if model == PIPELINE_MODEL:
        return contract.encoded_image, np.frombuffer(sample_image(), np.uint8)[None]
    raise ServerError(f"the repository holds a model {model!r} that this server does not know: build it again")
