"""Connect to one server over gRPC or HTTP, with one interface for both."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from deploy.client.address import Address, read_address
from deploy.client.address import Protocol as Protocol
from deploy.client.errors import DeadlineExceeded, ServerFault, ServerUnavailable, from_status
from deploy.content import HASH
from deploy.contract import GRPC_TOKEN_HEADER, PIPELINE_MODEL, Contract

GRPC_CHANNEL = [
    # gRPC's own limit is 4 MB, less than the probabilities of one large image.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that was restarted is found at once, where gRPC would wait for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


# Versions that may come into service during one request.
VERSIONS = 3


@dataclass(frozen=True)
class Access:
    """Hold what a protected server asks for.

    certificate: PEM file that the server's certificate is checked against. None connects without TLS, unless the
        address begins with https:// or grpcs://: then the certificates of this machine count.
    token: what the server expects with every request. Empty sends none.
    """

    certificate: Path | None = None
    token: str = ""

    def connection(self, address: Address, protocol: Protocol) -> dict[str, Any]:
        """Return tritonclient's arguments for TLS and for proxies, which differ by protocol."""
        # gRPC would look for this machine itself through the proxy that the environment names.
        direct = [("grpc.enable_http_proxy", 0)] if address.is_local else []
        options: dict[str, Any] = {"channel_args": [*GRPC_CHANNEL, *direct]} if protocol == "grpc" else {}
        return options | self._tls(address, protocol)

    def _tls(self, address: Address, protocol: Protocol) -> dict[str, Any]:
        if self.certificate is None:
            return {"ssl": True} if address.secure else {}
        file = str(self.certificate)
        return {
            "ssl": True,
            **({"root_certificates": file} if protocol == "grpc" else {"ssl_options": {"ca_certs": file}}),
        }

    def headers(self) -> dict[str, str]:
        """Return the headers that carry the token."""
        # Both go over either protocol: the proxy reads the first, tritonserver's gRPC endpoint the second.
        return {"authorization": f"Bearer {self.token}", GRPC_TOKEN_HEADER: self.token} if self.token else {}


@dataclass(frozen=True)
class Served:
    """Hold what a server serves.

    contract: sizes and names.
    sha256: of the version that they belong to, empty where the server does not say it.
    """

    contract: Contract
    sha256: str

    def fits(self, response: Any) -> bool:
        """Return whether a response comes from this version, as far as it says so."""
        return identity_of(response)[1] in ("", self.sha256)


class Transport:
    """Send requests to one server.

    tritonclient's modules for gRPC and HTTP agree on everything but construction, deadlines and the shape of a
    configuration: this class hides the differences. Over HTTP only one thread at a time may use it.
    """

    def __init__(self, url: str, protocol: Protocol, *, connect_timeout: float, timeout: float, access: Access) -> None:
        """Prepare a connection, which opens with the first request.

        Args:
            url: host:port, as `deploy.client.address` reads it.
            protocol: "grpc" or "http".
            connect_timeout: seconds for the first exchange.
            timeout: seconds for each inference.
            access: the certificate and token.
        """
        address = read_address(url, protocol)
        self.url, self.protocol, self._headers = address.authority, protocol, access.headers()
        self._connect_timeout, self._timeout = connect_timeout, timeout
        # Imported here, so that a gRPC client does without gevent, which the HTTP module brings along.
        self._api = import_module(f"tritonclient.{protocol}")
        # The HTTP client has one timeout for all its requests, the gRPC client one for each call.
        limits = {"connection_timeout": connect_timeout, "network_timeout": timeout} if protocol == "http" else {}
        self._client = self._api.InferenceServerClient(self.url, **limits, **access.connection(address, protocol))
        self._served: Served | None = None

    def served(self) -> Served:
        """Return what the server's model takes and gives, read at the first call."""
        self._served = self._served or self._read()
        return self._served

    def infer(
        self, image: NDArray[np.uint8], contract: Contract, outputs: list[str], request_id: str
    ) -> tuple[Any, Contract]:
        """Send one image's bytes, (n,) UINT8, and return the response, and the contract of the version that gave it.

        The response has `as_numpy(name)`.
        """
        for _ in range(VERSIONS):
            response = self._infer(image, contract, outputs, request_id)
            if not self.served().fits(response):
                # Another version has come into service. Its names must not be taken for those of the one before.
                self._served = self._read()
            if self.served().fits(response):
                return response, self.served().contract
        raise ServerUnavailable(f"the server at {self.url} changes its version with every answer")

    def _read(self) -> Served:
        options = {"as_json": True, "client_timeout": self._connect_timeout} if self.protocol == "grpc" else {}
        with translate_errors(self.url, self._connect_timeout, with_token=bool(self._headers)):
            response = self._client.get_model_config(PIPELINE_MODEL, headers=self._headers, **options)
        return read_served(response, self.url)

    def _infer(self, image: NDArray[np.uint8], contract: Contract, outputs: list[str], request_id: str) -> Any:
        arguments = inference_request(self._api, image, contract, outputs, request_id)
        if self.protocol == "grpc":
            arguments["client_timeout"] = self._timeout
        with translate_errors(self.url, self._timeout, with_token=bool(self._headers)):
            return self._client.infer(**arguments, headers=self._headers)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def inference_request(
    api: Any, image: NDArray[np.uint8], contract: Contract, outputs: list[str], request_id: str
) -> dict[str, Any]:
    """Return the arguments of an inference on one image.

    Args:
        api: either of tritonclient's modules.
        image: the file's bytes, (n,) UINT8.
        contract: the served model's.
        outputs: names of the outputs to compute.
        request_id: what the server's log calls the request.
    """
    spec = contract.encoded_image
    # A batch of one: rows of unequal files would have to be padded to one length.
    tensor = api.InferInput(spec.name, [1, image.size], spec.dtype)
    tensor.set_data_from_numpy(image[None])
    requested = [api.InferRequestedOutput(name) for name in outputs]
    return {"model_name": PIPELINE_MODEL, "inputs": [tensor], "outputs": requested, "request_id": request_id}


def identity_of(response: Any) -> tuple[str, str]:
    """Return the number of the version that gave a response, and its hash, empty where the server does not say it."""
    head = response.get_response()
    # Over HTTP, the JSON part.
    if isinstance(head, dict):
        return str(head["model_version"]), str(head.get("parameters", {}).get(HASH, ""))
    return head.model_version, head.parameters[HASH].string_param


def read_served(response: dict[str, Any], url: str) -> Served:
    """Read what is served from a model's configuration as JSON, with the errors of `read_contract`."""
    contract, config = read_contract(response, url), response.get("config", response)
    return Served(contract, config["parameters"].get(HASH, {}).get("string_value", ""))


def read_contract(response: dict[str, Any], url: str) -> Contract:
    """Read the contract from a model's configuration as JSON.

    Raises ServerFault where it is not one: the server at `url` was not set up by this project.
    """
    # gRPC wraps the configuration in one object more than HTTP.
    config = response.get("config", response)
    try:
        return Contract.from_json(config["parameters"]["contract"]["string_value"])
    except KeyError:
        raise ServerFault(f"the server at {url} has a model {PIPELINE_MODEL} without a contract") from None
    except ValueError as error:
        raise ServerFault(f"the server at {url} has a model {PIPELINE_MODEL} of a damaged contract: {error}") from None


@contextmanager
def translate_errors(url: str, timeout: float, *, with_token: bool = False) -> Iterator[None]:
    """Turn every failure of a request inside the block into a ClientError."""
    try:
        yield
    except InferenceServerException as error:
        raise from_status(error.status(), error.message(), url, with_token=with_token) from None
    # A subclass of OSError, so it must come before it.
    except TimeoutError:
        raise DeadlineExceeded(f"the server at {url} did not answer within {timeout:g} s") from None
    except (OSError, HTTPException) as error:
        raise ServerUnavailable(f"no server answers at {url}: {error}") from None
