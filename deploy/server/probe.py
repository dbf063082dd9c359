"""The one health check that can be believed: an inference.

With its worker dead the server goes on calling itself live and ready, and the model ready.
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
from deploy.server.internal_endpoint import PrivateSide

Headers = dict[str, str]

# A worker's first inference may still compile kernels.
FIRST_SECONDS = 60.0
PATIENCE_SECONDS = 2.0


class Probe:
    """Asks the models of one server to answer a generated image."""

    def __init__(self, private: PrivateSide, contract: Contract) -> None:
        self._private, self._contract = private, contract
        self._patience: dict[str, float] = {}

    def first(self, model: str) -> None:
        """The check after loading, which also learns how long the model may take; raises ServerError."""
        self._infer(model, FIRST_SECONDS)
        start = time.monotonic()
        self._infer(model, FIRST_SECONDS)
        # A worker that is busy with a full batch is no more than busy.
        self._patience[model] = PATIENCE_SECONDS + 2 * self._contract.max_batch * (time.monotonic() - start)

    def check(self, model: str) -> None:
        """Return if `model` answers, or works off a queue; raises ServerError where it does neither."""
        done = self._executions(model)
        try:
            self._infer(model, self._patience[model])
        except ServerError:
            if self._executions(model) == done:
                raise

    def _infer(self, model: str, timeout: float) -> None:
        spec, values = _question(model, self._contract)
        tensor = InferInput(spec.name, list(values.shape), spec.dtype)
        tensor.set_data_from_numpy(values)
        # The smallest output: the probe asks for life, not for a mask.
        wanted = [InferRequestedOutput(self._contract.outputs[1].name)]
        body, length = InferenceServerClient.generate_request_body([tensor], outputs=wanted, request_id=PROBE_ID)
        self._ask(model, "POST", "infer", timeout, body, {"Inference-Header-Content-Length": str(length)})

    def _executions(self, model: str) -> int:
        """How many executions have ended well since the model was loaded."""
        statistics = json.loads(self._ask(model, "GET", "stats", PATIENCE_SECONDS))["model_stats"]
        return sum(int(one["inference_stats"]["success"]["count"]) for one in statistics)

    def _ask(
        self, model: str, method: str, action: str, timeout: float, body: bytes = b"", headers: Headers | None = None
    ) -> bytes:
        path = f"/v2/models/{model}/{action}"
        try:
            return self._private.ask(method, path, body, timeout=timeout, headers=headers)
        except ServerError as error:
            raise ServerError(f"model {model} does not answer: {error}") from None


def _question(model: str, contract: Contract) -> tuple[TensorSpec, NDArray[Any]]:
    if model == NETWORK_MODEL:
        spec = contract.network_input
        return spec, np.zeros((1, *spec.shape), triton_to_np_dtype(spec.dtype))
    if model == PIPELINE_MODEL:
        return contract.encoded_image, np.frombuffer(sample_image(), np.uint8)[None]
    raise ServerError(f"the repository holds a model {model!r} that this server does not know: build it again")
