"""One connection to one server, over gRPC or HTTP, with the same face for both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from deploy.client.errors import DeadlineExceeded, ServerUnavailable, from_status
from deploy.contract import PIPELINE_MODEL, Contract

Protocol = Literal["grpc", "http"]


class Transport:
    """tritonclient's two modules agree on everything but construction, deadlines and the shape of a configuration.

    connect_timeout, timeout: seconds for the first exchange and for each inference.  Over HTTP, one thread at a time.
    """

    def __init__(self, url: str, protocol: Protocol, *, connect_timeout: float, timeout: float) -> None:
        self.url, self.protocol = url, protocol
        self._connect_timeout, self._timeout = connect_timeout, timeout
        self._api = import_module(f"tritonclient.{protocol}")
        timeouts = {"connection_timeout": connect_timeout, "network_timeout": timeout} if protocol == "http" else {}
        self._client = self._api.InferenceServerClient(url, **timeouts)

    def contract(self) -> Contract:
        """What the server's model takes and gives, from its configuration."""
        if self.protocol == "grpc":
            with self._translated():
                answer = self._client.get_model_config(
                    PIPELINE_MODEL, as_json=True, client_timeout=self._connect_timeout
                )
            config = answer["config"]
        else:
            with self._translated():
                config = self._client.get_model_config(PIPELINE_MODEL)
        return Contract.from_json(config["parameters"]["contract"]["string_value"])

    def infer(self, image: NDArray[np.uint8], contract: Contract, outputs: list[str], request_id: str) -> Any:
        """Send one image's bytes, (n,) UINT8; the answer has `as_numpy(name)`."""
        spec = contract.encoded_image
        tensor = self._api.InferInput(spec.name, [1, image.size], spec.dtype)
        tensor.set_data_from_numpy(image[None])
        wanted = [self._api.InferRequestedOutput(name) for name in outputs]
        deadline = {"client_timeout": self._timeout} if self.protocol == "grpc" else {}
        with self._translated():
            return self._client.infer(PIPELINE_MODEL, [tensor], outputs=wanted, request_id=request_id, **deadline)

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            raise from_status(error.status(), error.message(), self.url) from None
        except TimeoutError:
            raise DeadlineExceeded(f"the server at {self.url} did not answer within {self._timeout:g} s") from None
        except OSError as error:
            raise ServerUnavailable(f"no server answers at {self.url} over {self.protocol}: {error}") from None
