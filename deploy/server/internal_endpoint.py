"""Load, unload and probe models through tritonserver's own endpoints, which are sockets in a folder of this user's.

The proxy forwards requests to them. Clients reach the proxy instead.
"""

import http.client
import json
import secrets
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as schema
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import triton_to_np_dtype

from deploy.contract import NETWORK_MODEL, PIPELINE_MODEL, PROBE_VARIABLE, Contract, TensorSpec, sample_image
from deploy.errors import EXHAUSTED, ServerError

# Compiling a large network takes its time.
LOAD_SECONDS = 120.0
# A worker's first inference may still compile kernels.
FIRST_SECONDS = 60.0
PATIENCE_SECONDS = 2.0

Headers = dict[str, str]


class InternalEndpoint:
    """Send requests to tritonserver, and load and unload its models.

    Its sockets lie in a folder that only this user can enter, so that no other user of the machine can load a model,
    which is code. A key would have to stand on tritonserver's command line, where everybody can read it.

    http, grpc, metrics: the sockets.
    probe_id: the id of this object's inferences.
    """

    def __init__(self, folder: Path) -> None:
        """Name the sockets in `folder`."""
        self.http, self.metrics = folder / "http", folder / "metrics"
        # The server puts the port behind the path.
        self.grpc = folder / "grpc:1"
        self.probe_id = secrets.token_hex(16)

    def arguments(self) -> list[str]:
        """Return the command-line arguments that make tritonserver listen here."""
        return [
            f"--http-address=unix:{self.http}",
            f"--metrics-address=unix:{self.metrics}",
            f"--grpc-address=unix:{self.grpc.with_name('grpc')}",
            "--grpc-port=1",
        ]

    def environment(self) -> dict[str, str]:
        """Return the variables that workers need. No other user can read them."""
        return {PROBE_VARIABLE: self.probe_id}

    def request(
        self, method: str, path: str, body: bytes = b"", *, timeout: float, headers: Headers | None = None
    ) -> bytes:
        """Send one request and return the body of a response with status 200.

        Raises ServerError with the server's reason for any other status, and where there is no response within
        `timeout` seconds. Raises OSError where this process lacks what a request takes.
        """
        # A connection per request: tritonserver does not end while an idle one is open.
        connection = _Connection(self.metrics if path == "/metrics" else self.http, timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
        except TimeoutError:
            raise ServerError(f"no answer within {timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise
            raise ServerError(f"the server cannot be reached: {error}") from None
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise ServerError(_reason(content) or f"HTTP status {response.status}")
        return content

    def load(self, config: schema.ModelConfig) -> None:
        """Load a model with `config` in place of the configuration in its folder.

        Raises ServerError with the server's reason.
        """
        parameters = {"config": json_format.MessageToJson(config)}
        self._control(config.name, "load", LOAD_SECONDS, json.dumps({"parameters": parameters}).encode())

    def unload(self, name: str, timeout: float) -> None:
        """Take a model out of service, so that the next load starts new workers.

        Returns before the model is gone. After a request failed on a dead worker, the server never finishes unloading
        the old model, and waiting for it would not end.
        """
        self._control(name, "unload", timeout)

    def _control(self, name: str, action: str, timeout: float, body: bytes = b"") -> None:
        self.request("POST", f"/v2/repository/models/{name}/{action}", body, timeout=timeout)


class _Connection(http.client.HTTPConnection):
    """Connect to a socket in the file system."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open the connection."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _reason(content: bytes) -> str:
    """Return the server's error message in one line, or an empty text where `content` holds none."""
    try:
        message = str(json.loads(content)["error"])
    except (ValueError, LookupError, TypeError):
        return ""
    # What follows "At:" is the worker's stack.
    return " ".join(message.partition("\n\nAt:")[0].split())


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
        body, length = InferenceServerClient.generate_request_body(
            [tensor], outputs=requested, request_id=self._internal.probe_id
        )
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
