"""Query a served model from a program, with blocking calls or with asyncio."""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import tritonclient.grpc.aio as grpc_aio
from numpy.typing import NDArray

from data_pipeline.enlarge import enlarge
from data_pipeline.image_header import ImageError, read_header
from deploy.client.address import Protocol, read_address
from deploy.client.balancer import Balancer
from deploy.client.errors import DeadlineExceeded, InvalidImage, ServerUnavailable
from deploy.client.transport import (
    VERSIONS,
    Access,
    Served,
    Transport,
    identity_of,
    inference_request,
    read_served,
    translate_errors,
)
from deploy.contract import PIPELINE_MODEL, Contract

UNPROTECTED = Access()
# The pause doubles from the first to the longest: quick after a short repair, light on a server that stays away.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0

Response = TypeVar("Response")


@dataclass(frozen=True, kw_only=True)
class Result:
    """Hold what the server computed for one image.

    mask: (S, S) uint8, an index into `seg_classes` for every pixel of the network's square view of the image.
    seg_classes: names of the mask's values, "background" first.
    class_probabilities: one in [0, 1] for each label. They are independent of each other.
    seg_probabilities: (K, S, S) float32 before the decision, or None where neither they nor the mask at the image's
        own size were requested.
    seconds: from sending the image to receiving the response.
    request_id: what the server's log calls this request.
    version: number of the network's version that answered.
    sha256: hash of that version and its configuration, empty for a server that does not say it.
    own_mask: (height, width) uint8, `mask` for every pixel of the image itself, turned upright as its metadata say, or
        None where it was not requested.
    """

    mask: NDArray[np.uint8]
    seg_classes: tuple[str, ...]
    class_probabilities: dict[str, float]
    seg_probabilities: NDArray[np.float32] | None
    seconds: float
    request_id: str
    version: str = ""
    sha256: str = ""
    own_mask: NDArray[np.uint8] | None = None


class Client:
    """Query one server, or several that serve the same model.

    Leave it through `with` or `close()`. Every method raises a subclass of ClientError. Threads may share a client over
    gRPC, but not one over HTTP.
    """

    def __init__(
        self,
        url: str | Sequence[str] = "localhost:8001",
        protocol: Protocol = "grpc",
        *,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
        retry_for: float = 0.0,
        access: Access = UNPROTECTED,
    ) -> None:
        """Prepare the connections, which open with the first request.

        Args:
            url: host:port of the server's gRPC (8001) or HTTP (8000) endpoint, also [IPv6]:port, and with a scheme
                (grpc, grpcs, http, https). Of several, each is used in turn.
            protocol: "grpc" or "http".
            timeout: seconds that one attempt at an image may take.
            connect_timeout: seconds for a server to say what it serves.
            retry_for: seconds to go on trying while no server is available. A request is not repeated after a timeout,
                since the server may still be working on it.
            access: the certificate and token of a server that asks for them.

        Raises:
            ValueError: a URL is none, or one of the other protocol.
        """
        urls = [url] if isinstance(url, str) else url
        self._transports = [
            Transport(one, protocol, connect_timeout=connect_timeout, timeout=timeout, access=access) for one in urls
        ]
        self._balancer = Balancer(self._transports)
        self._retry_for = retry_for
        self._contract: Contract | None = None

    def served(self) -> Served:
        """Ask what is served, with the hash of its version."""
        return self._request(Transport.served)

    @property
    def contract(self) -> Contract:
        """Return the sizes and names of what is served, of the version that gave the last answer."""
        # Asked for once: every request to the balancer is a turn.
        self._contract = self._contract or self._request(Transport.served).contract
        return self._contract

    def segment(self, data: bytes, *, probabilities: bool = False, own_size: bool = False) -> Result:
        """Return the mask and class probabilities of one image.

        Args:
            data: the bytes of a JPEG, PNG or TIFF file.
            probabilities: request `seg_probabilities` as well, 4 bytes on the wire for each pixel and class.
            own_size: compute `own_mask` as well, from the same probabilities.
        """
        # The file is sent as it is: decoded, it would be many times larger on the wire.
        expected, image, request_id = self.contract, np.frombuffer(data, np.uint8), uuid.uuid4().hex
        start = time.perf_counter()
        names = requested_outputs(expected, probabilities or own_size)
        response, contract = self._request(lambda transport: transport.infer(image, expected, names, request_id))
        self._contract = contract
        result = read_result(
            response,
            contract,
            probabilities=probabilities or own_size,
            seconds=time.perf_counter() - start,
            request_id=request_id,
        )
        return with_own_mask(result, data) if own_size else result

    def close(self) -> None:
        """Close the connections."""
        for transport in self._transports:
            transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, operation: Callable[[Transport], Response]) -> Response:
        """Return the first response of an available server, trying again with growing pauses while there is none.

        Repeating is safe, since an inference changes nothing on the server.
        """
        give_up, pause = time.monotonic() + self._retry_for, FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._request_each(operation)
            except ServerUnavailable:
                if time.monotonic() + pause > give_up:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _request_each(self, operation: Callable[[Transport], Response]) -> Response:
        # The last one's error is the one that is raised.
        *others, last = self._balancer.candidates()
        for transport in others:
            with suppress(ServerUnavailable):
                return self._request_one(transport, operation)
        return self._request_one(last, operation)

    def _request_one(self, transport: Transport, operation: Callable[[Transport], Response]) -> Response:
        try:
            return operation(transport)
        # A refused image says nothing against the server, which stays in service.
        except (ServerUnavailable, DeadlineExceeded):
            self._balancer.drop(transport)
            raise


def requested_outputs(contract: Contract, probabilities: bool) -> list[str]:
    """Return the names of the outputs to request: those that travel cheaply, and the probabilities where wanted."""
    # 4 bytes a pixel and class against 1 byte a pixel of the mask, so the probabilities stay away unless wanted.
    mask, classes, soft = (spec.name for spec in contract.outputs)
    return [mask, classes, soft] if probabilities else [mask, classes]


def read_result(response: Any, contract: Contract, *, probabilities: bool, seconds: float, request_id: str) -> Result:
    """Turn the tensors of a server's response, a batch of one, into a Result."""
    mask, classes, soft = (spec.name for spec in contract.outputs)
    version, sha256 = identity_of(response)
    return Result(
        mask=response.as_numpy(mask)[0],
        seg_classes=contract.seg_classes,
        class_probabilities=dict(zip(contract.labels, response.as_numpy(classes)[0].tolist(), strict=True)),
        seg_probabilities=response.as_numpy(soft)[0] if probabilities else None,
        seconds=seconds,
        request_id=request_id,
        version=version,
        sha256=sha256,
    )


def with_own_mask(result: Result, data: bytes) -> Result:
    """Return a result with the mask of the image itself, decided from probabilities that are brought to its size."""
    try:
        size = read_header(data).upright_size
    except ImageError as error:
        # A server of another kind may read more files than this project's.
        raise InvalidImage(str(error)) from None
    assert result.seg_probabilities is not None
    return replace(result, own_mask=enlarge(result.seg_probabilities, size))


class AsyncClient:
    """Query one server: `async with AsyncClient(url) as client: await client.segment(data)`.

    Raises what `Client` raises.
    """

    def __init__(
        self, url: str = "localhost:8001", *, timeout: float = 30.0, in_flight: int = 8, access: Access = UNPROTECTED
    ) -> None:
        """Prepare the connection, which opens with the first request.

        Args:
            url: host:port of the server's gRPC endpoint.
            timeout: seconds that a request may take.
            in_flight: requests on the wire at once. Further callers wait for their turn.
            access: the certificate and token of a server that asks for them.

        Raises:
            ValueError: the URL is none, or one of HTTP.
        """
        address = read_address(url, "grpc")
        self._url, self._timeout, self._headers = address.authority, timeout, access.headers()
        # Without it a program that starts thousands of tasks would pile up their images on both sides.
        self._semaphore = asyncio.Semaphore(in_flight)
        self._client = grpc_aio.InferenceServerClient(self._url, **access.connection(address, "grpc"))
        self._served: Served | None = None

    async def contract(self) -> Contract:
        """Return the sizes and names of what is served, of the version that gave the last answer."""
        return (await self._read_served()).contract

    async def _read_served(self, *, again: bool = False) -> Served:
        if self._served is None or again:
            with translate_errors(self._url, self._timeout, with_token=bool(self._headers)):
                response = await self._client.get_model_config(
                    PIPELINE_MODEL, headers=self._headers, as_json=True, client_timeout=self._timeout
                )
            self._served = read_served(response, self._url)
        return self._served

    async def segment(self, data: bytes, *, probabilities: bool = False, own_size: bool = False) -> Result:
        """Return the mask and class probabilities of one image, as `Client.segment` does."""
        expected, request_id = await self.contract(), uuid.uuid4().hex
        names = requested_outputs(expected, probabilities or own_size)
        arguments = inference_request(grpc_aio, np.frombuffer(data, np.uint8), expected, names, request_id)
        async with self._semaphore:
            # Started here, so that the result's seconds do not count the wait for a turn.
            start = time.perf_counter()
            response, contract = await self._infer(arguments)
        result = read_result(
            response,
            contract,
            probabilities=probabilities or own_size,
            seconds=time.perf_counter() - start,
            request_id=request_id,
        )
        # In a thread: a large image takes a second, for which every other request would stand still.
        return await asyncio.to_thread(with_own_mask, result, data) if own_size else result

    async def _infer(self, arguments: dict[str, Any]) -> tuple[Any, Contract]:
        """Return a response and the contract of the version that gave it, as `Transport.infer` does."""
        for _ in range(VERSIONS):
            with translate_errors(self._url, self._timeout, with_token=bool(self._headers)):
                response = await self._client.infer(**arguments, headers=self._headers, client_timeout=self._timeout)
            served = await self._read_served()
            if not served.fits(response):
                served = await self._read_served(again=True)
            if served.fits(response):
                return response, served.contract
        raise ServerUnavailable(f"the server at {self._url} changes its version with every answer")

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()
