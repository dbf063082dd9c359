"""The client for asyncio programs, over gRPC."""

import asyncio
import time
import uuid
from types import TracebackType

import numpy as np
import tritonclient.grpc.aio as grpc_aio

from deploy.client.client import NO_GUARD, Result, read_answer, wanted_outputs
from deploy.client.transport import GRPC_CHANNEL, Access, question, read_contract, translated
from deploy.contract import PIPELINE_MODEL, Contract


class AsyncClient:
    """`async with AsyncClient(url) as client: await client.segment(data)`.

    in_flight: requests on the wire at once; further callers wait their turn, so that neither side piles them up.
    Raises what `Client` raises.
    """

    def __init__(
        self, url: str = "localhost:8001", *, timeout: float = 30.0, in_flight: int = 8, access: Access = NO_GUARD
    ) -> None:
        self._url, self._timeout, self._headers = url, timeout, access.headers()
        self._turnstile = asyncio.Semaphore(in_flight)
        self._client = grpc_aio.InferenceServerClient(url, channel_args=GRPC_CHANNEL, **access.connection("grpc"))
        self._contract: Contract | None = None

    async def contract(self) -> Contract:
        """Sizes and names of what is served; asked of the server once."""
        if self._contract is None:
            with translated(self._url, self._timeout):
                answer = await self._client.get_model_config(
                    PIPELINE_MODEL, headers=self._headers, as_json=True, client_timeout=self._timeout
                )
            self._contract = read_contract(answer)
        return self._contract

    async def segment(self, data: bytes, *, probabilities: bool = False) -> Result:
        """As `Client.segment`; the seconds do not count the wait for a turn."""
        contract, request_id = await self.contract(), uuid.uuid4().hex
        names = wanted_outputs(contract, probabilities)
        arguments = question(grpc_aio, np.frombuffer(data, np.uint8), contract, names, request_id)
        async with self._turnstile:
            start = time.perf_counter()
            with translated(self._url, self._timeout):
                answer = await self._client.infer(**arguments, headers=self._headers, client_timeout=self._timeout)
        return read_answer(answer, contract, probabilities, time.perf_counter() - start, request_id)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()
