"""Query a served model from an asyncio program, over gRPC."""

import asyncio
import time
import uuid
from types import TracebackType

import numpy as np
import tritonclient.grpc.aio as grpc_aio

from deploy.client.client import NO_GUARD, Result, read_result, requested_outputs
from deploy.client.transport import GRPC_CHANNEL, Access, inference_request, read_contract, translate_errors
from deploy.contract import PIPELINE_MODEL, Contract


class AsyncClient:
    """Query one server: `async with AsyncClient(url) as client: await client.segment(data)`.

    Raises what `Client` raises.
    """

    def __init__(
        self, url: str = "localhost:8001", *, timeout: float = 30.0, in_flight: int = 8, access: Access = NO_GUARD
    ) -> None:
        """Prepare the connection, which opens with the first request.

        Args:
            url: host:port of the server's gRPC endpoint.
            timeout: seconds that a request may take.
            in_flight: requests on the wire at once. Further callers wait for their turn.
            access: the certificate and token of a server that asks for them.
        """
        self._url, self._timeout, self._headers = url, timeout, access.headers()
        # Without it a program that starts thousands of tasks would pile up their images on both sides.
        self._semaphore = asyncio.Semaphore(in_flight)
        self._client = grpc_aio.InferenceServerClient(url, channel_args=GRPC_CHANNEL, **access.connection("grpc"))
        self._contract: Contract | None = None

    async def contract(self) -> Contract:
        """Return the sizes and names of what is served."""
        # Only the first call sends a request: a server does not change its model while it runs.
        if self._contract is None:
            with translate_errors(self._url, self._timeout):
                response = await self._client.get_model_config(
                    PIPELINE_MODEL, headers=self._headers, as_json=True, client_timeout=self._timeout
                )
            self._contract = read_contract(response)
        return self._contract

    async def segment(self, data: bytes, *, probabilities: bool = False) -> Result:
        """Return the mask and class probabilities of one image, as `Client.segment` does."""
        contract, request_id = await self.contract(), uuid.uuid4().hex
        names = requested_outputs(contract, probabilities)
        arguments = inference_request(grpc_aio, np.frombuffer(data, np.uint8), contract, names, request_id)
        async with self._semaphore:
            # Started here, so that the result's seconds do not count the wait for a turn.
            start = time.perf_counter()
            with translate_errors(self._url, self._timeout):
                response = await self._client.infer(**arguments, headers=self._headers, client_timeout=self._timeout)
        return read_result(
            response,
            contract,
            probabilities=probabilities,
            seconds=time.perf_counter() - start,
            request_id=request_id,
        )

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()
