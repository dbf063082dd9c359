"""The client as a program uses it."""

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deploy.client.balancer import Balancer
from deploy.client.errors import DeadlineExceeded, ServerUnavailable
from deploy.client.transport import Access, Protocol, Transport
from deploy.contract import Contract

NO_GUARD = Access()
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Result:
    """What the server said of one image.

    mask: (S, S) uint8, an index into `seg_classes` for every pixel of the network's square view of the image.
    class_probabilities: one in [0, 1] a label; they are independent of each other.
    seg_probabilities: (K, S, S) float32 before the decision, or None where it was not asked for.
    seconds: from sending the image to having the answer.  request_id: what the server's log calls this request.
    """

    mask: NDArray[np.uint8]
    seg_classes: tuple[str, ...]
    class_probabilities: dict[str, float]
    seg_probabilities: NDArray[np.float32] | None
    seconds: float
    request_id: str


class Client:
    """A connection to a server, or to several that serve the same; leave it through `with` or `close()`.

    url: host:port of the server's gRPC (8001) or HTTP (8000) side, as `protocol` says; several are asked in turn.
    timeout: seconds one try at an image may take; connect_timeout: seconds for a server to say what it serves.
    retry_for: seconds to go on trying while no server is available.  An inference changes nothing and may be repeated;
    after a timeout it is not, since the server may still be at work on it.
    access: the certificate and token of a server that asks for them.
    Every method raises a subclass of ClientError.  Threads may share a gRPC client, but not an HTTP one.
    """

    def __init__(
        self,
        url: str | Sequence[str] = "localhost:8001",
        protocol: Protocol = "grpc",
        *,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
        retry_for: float = 0.0,
        access: Access = NO_GUARD,
    ) -> None:
        urls = [url] if isinstance(url, str) else url
        self._transports = [
            Transport(one, protocol, connect_timeout=connect_timeout, timeout=timeout, access=access) for one in urls
        ]
        self._balancer = Balancer(self._transports)
        self._retry_for = retry_for

    @cached_property
    def contract(self) -> Contract:
        """Sizes and names of what is served; asked of the server once."""
        return self._ask(Transport.contract)

    def segment(self, data: bytes, *, probabilities: bool = False) -> Result:
        """Mask and class probabilities of one image, given as the bytes of a JPEG, PNG or TIFF file.

        probabilities: ask for `seg_probabilities` as well (4 bytes a pixel and class on the wire).
        """
        contract, image, request_id = self.contract, np.frombuffer(data, np.uint8), uuid.uuid4().hex
        start = time.perf_counter()
        names = wanted_outputs(contract, probabilities)
        answer = self._ask(lambda transport: transport.infer(image, contract, names, request_id))
        return read_answer(answer, contract, probabilities, time.perf_counter() - start, request_id)

    def close(self) -> None:
        """Give the connections back."""
        for transport in self._transports:
            transport.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: Callable[[Transport], Answer]) -> Answer:
        """The first answer of a server that is available, asking again with growing pauses while none is."""
        give_up, pause = time.monotonic() + self._retry_for, FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._ask_each(question)
            except ServerUnavailable:
                if time.monotonic() + pause > give_up:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _ask_each(self, question: Callable[[Transport], Answer]) -> Answer:
        *others, last = self._balancer.candidates()
        for transport in others:
            with suppress(ServerUnavailable):
                return self._ask_one(transport, question)
        return self._ask_one(last, question)

    def _ask_one(self, transport: Transport, question: Callable[[Transport], Answer]) -> Answer:
        try:
            return question(transport)
        except (ServerUnavailable, DeadlineExceeded):
            self._balancer.drop(transport)
            raise


def wanted_outputs(contract: Contract, probabilities: bool) -> list[str]:
    """Names of the outputs to ask for: those that travel cheaply, and the probabilities where they are wanted."""
    mask, classes, soft = (spec.name for spec in contract.outputs)
    return [mask, classes, soft] if probabilities else [mask, classes]


def read_answer(answer: Any, contract: Contract, probabilities: bool, seconds: float, request_id: str) -> Result:
    """The server's tensors as a Result."""
    mask, classes, soft = (spec.name for spec in contract.outputs)
    return Result(
        mask=answer.as_numpy(mask)[0],
        seg_classes=contract.seg_classes,
        class_probabilities=dict(zip(contract.labels, answer.as_numpy(classes)[0].tolist(), strict=True)),
        seg_probabilities=answer.as_numpy(soft)[0] if probabilities else None,
        seconds=seconds,
        request_id=request_id,
    )
