"""One connection to one server, over gRPC or HTTP, with the same face for both."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from deploy.client.errors import DeadlineExceeded, ServerUnavailable, from_status
from deploy.contract import GRPC_TOKEN_HEADER, PIPELINE_MODEL, Contract

Protocol = Literal["grpc", "http"]

GRPC_CHANNEL = [
    # gRPC's own limit is 4 MB, less than the probabilities of one large image.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that was started again is found at once, where gRPC would wait for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


@dataclass(frozen=True)
class Access:
    """What a guarded server asks for.

    certificate: PEM file that the server's own is checked against; None speaks without TLS.  token: empty for none.
    """

    certificate: Path | None = None
    token: str = ""

    def connection(self, protocol: Protocol) -> dict[str, Any]:
        """tritonclient's arguments for TLS."""
        if self.certificate is None:
            return {}
        file = str(self.certificate)
        return {
            "ssl": True,
            **({"root_certificates": file} if protocol == "grpc" else {"ssl_options": {"ca_certs": file}}),
        }

    def headers(self) -> dict[str, str]:
        """The token as either side of the server reads it."""
        return {"authorization": f"Bearer {self.token}", GRPC_TOKEN_HEADER: self.token} if self.token else {}


class Transport:
    """tritonclient's two modules agree on everything but construction, deadlines and the shape of a configuration.

    connect_timeout, timeout: seconds for the first exchange and for each inference.  Over HTTP, one thread at a time.
    """

    def __init__(self, url: str, protocol: Protocol, *, connect_timeout: float, timeout: float, access: Access) -> None:
        self.url, self.protocol, self._headers = url, protocol, access.headers()
        self._connect_timeout, self._timeout = connect_timeout, timeout
        self._api = import_module(f"tritonclient.{protocol}")
        options: dict[str, Any] = {"connection_timeout": connect_timeout, "network_timeout": timeout}
        if protocol == "grpc":
            options = {"channel_args": GRPC_CHANNEL}
        self._client = self._api.InferenceServerClient(url, **options, **access.connection(protocol))

    def contract(self) -> Contract:
        """What the server's model takes and gives, from its configuration."""
        options = {"as_json": True, "client_timeout": self._connect_timeout} if self.protocol == "grpc" else {}
        with translated(self.url, self._connect_timeout):
            answer = self._client.get_model_config(PIPELINE_MODEL, headers=self._headers, **options)
        return read_contract(answer)

    def infer(self, image: NDArray[np.uint8], contract: Contract, outputs: list[str], request_id: str) -> Any:
        """Send one image's bytes, (n,) UINT8; the answer has `as_numpy(name)`."""
        arguments = question(self._api, image, contract, outputs, request_id)
        if self.protocol == "grpc":
            arguments["client_timeout"] = self._timeout
        with translated(self.url, self._timeout):
            return self._client.infer(**arguments, headers=self._headers)

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()


def question(
    api: Any, image: NDArray[np.uint8], contract: Contract, outputs: list[str], request_id: str
) -> dict[str, Any]:
    """The arguments of an inference, for either of tritonclient's modules."""
    spec = contract.encoded_image
    tensor = api.InferInput(spec.name, [1, image.size], spec.dtype)
    tensor.set_data_from_numpy(image[None])
    wanted = [api.InferRequestedOutput(name) for name in outputs]
    return {"model_name": PIPELINE_MODEL, "inputs": [tensor], "outputs": wanted, "request_id": request_id}


def read_contract(answer: dict[str, Any]) -> Contract:
    """The contract in a model's configuration as JSON, which gRPC wraps once more than HTTP."""
    config = answer.get("config", answer)
    return Contract.from_json(config["parameters"]["contract"]["string_value"])


@contextmanager
def translated(url: str, timeout: float) -> Iterator[None]:
    """Whatever goes wrong with a request inside leaves as a ClientError."""
    try:
        yield
    except InferenceServerException as error:
        raise from_status(error.status(), error.message(), url) from None
    except TimeoutError:
        raise DeadlineExceeded(f"the server at {url} did not answer within {timeout:g} s") from None
    except (OSError, HTTPException) as error:
        raise ServerUnavailable(f"no server answers at {url}: {error}") from None
