"""The client as a program uses it."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from deploy.client.transport import Protocol, Transport
from deploy.contract import Contract


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
    """A connection to a server; leave it through `with` or `close()`.

    url: host:port of the server's gRPC (8001) or HTTP (8000) side, as `protocol` says.
    timeout: seconds an image may take; connect_timeout: seconds for the server to say what it serves.
    Every method raises a subclass of ClientError.  Threads may share a gRPC client, but not an HTTP one.
    """

    def __init__(
        self,
        url: str = "localhost:8001",
        protocol: Protocol = "grpc",
        *,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
    ) -> None:
        self._transport = Transport(url, protocol, connect_timeout=connect_timeout, timeout=timeout)

    @cached_property
    def contract(self) -> Contract:
        """Sizes and names of what is served; asked of the server once."""
        return self._transport.contract()

    def segment(self, data: bytes, *, probabilities: bool = False) -> Result:
        """Mask and class probabilities of one image, given as the bytes of a JPEG, PNG or TIFF file.

        probabilities: ask for `seg_probabilities` as well (4 bytes a pixel and class on the wire).
        """
        contract, request_id = self.contract, uuid.uuid4().hex
        mask, classes, soft = (spec.name for spec in contract.outputs)
        wanted = [mask, classes, *([soft] if probabilities else [])]
        start = time.perf_counter()
        answer = self._transport.infer(np.frombuffer(data, np.uint8), contract, wanted, request_id)
        seconds = time.perf_counter() - start
        return Result(
            mask=answer.as_numpy(mask)[0],
            seg_classes=contract.seg_classes,
            class_probabilities=dict(zip(contract.labels, answer.as_numpy(classes)[0].tolist(), strict=True)),
            seg_probabilities=answer.as_numpy(soft)[0] if probabilities else None,
            seconds=seconds,
            request_id=request_id,
        )

    def close(self) -> None:
        """Give the connection back."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
