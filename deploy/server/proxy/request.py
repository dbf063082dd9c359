"""Check an inference request before tritonserver may see it, and count what is refused."""

import json
import math
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from data_pipeline.fields import each_once
from deploy.server.proxy.metrics import family

# What tritonserver reads as a number: its timeouts, priorities and ids of sequences have 64 bits.
LARGEST_NUMBER = 2**64 - 1
# Of a body's JSON part. Python holds every other request up while it reads one, for 30 ms a megabyte.
MOST_JSON = 16 * 2**20
# For tritonserver to answer, whatever the client grants, and for a client to wait before it tries again.
RESPONSE_SECONDS, RETRY_SECONDS = 120.0, 1
# Of a tensor. The lengths of a long list would be multiplied to a number of millions of digits.
MOST_AXES = 16
# Of a gRPC message, and inputs, outputs and parameters in JSON together. An inference has about ten. Each takes
# tritonserver far more memory than it has bytes, and its time grows with their square.
MOST_FIELDS = 1000
# Bytes of a request for the list of models, which may say {"ready": true} and no more.
MOST_INDEX = 1000
# What tritonserver says of a request whose worker has ended.
LOST = "is not healthy"
UNAVAILABLE = "the server is not available: it is being started or repaired"
FAULT = "the server failed on this request; its log says why"
# Of W3C's recommendation Trace Context, the same over both protocols.
TRACE_HEADER = "traceparent"
_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Rejection(Exception):  # noqa: N818 (a response, not a fault)
    """Refuse a request.

    status: of the HTTP response.
    reason: what to count it by.
    message: one line for the client.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


class Rejections:
    """Count rejections since the proxy started, in the thread of its event loop."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        """Count one more for `reason`."""
        # Every reason is a literal of this code: text from a client would let it add metrics without limit.
        self._counts[reason] += 1

    def text(self) -> str:
        """Return the family of counters as Prometheus reads it."""
        meaning = "Requests that were refused before inference"
        return family("rejected_requests_total", "counter", meaning, dict(sorted(self._counts.items())), "reason")


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Hold what is needed of a request for as long as it waits, which is less than its parsed document takes.

    id: that the client gave it, empty where it gave none.
    seconds: how long the client grants it, None for any time.
    content: what makes it another one than others.
    body: with an id, as it is forwarded.
    json_length: of the body's JSON part.
    """

    id: str
    seconds: float | None
    content: list[bytes]
    body: bytes
    json_length: int


@dataclass(frozen=True)
class InferenceRequest:
    """Hold a request's body in two parts.

    document: what the JSON part says.
    head: the JSON part.
    tensors: the bytes of its tensors, which follow it (the protocol's binary extension).
    """

    document: dict[str, Any]
    head: bytes
    tensors: bytes

    @property
    def seconds(self) -> float | None:
        """Return how long the client grants the request, or None for any time. The protocol counts microseconds."""
        parameters = self.document.get("parameters")
        timeout = parameters.get("timeout") if isinstance(parameters, dict) else None
        return timeout / 1e6 if type(timeout) is int and timeout > 0 else None

    @property
    def content(self) -> list[bytes]:
        """Return what makes this request another one than others, which its id does not."""
        if not self.tensors:
            return [self.head]
        return [json.dumps(_described(self.document["inputs"])).encode(), self.tensors]

    @property
    def id(self) -> str:
        """Return the id that the client gave it, empty where it gave none."""
        return str(self.document.get("id", ""))

    def named(self, identity: str) -> tuple[bytes, int]:
        """Return the body with `identity` as the request's id where it has none, and the length of its JSON part."""
        head = self.head
        if not self.id:
            # Not written anew, which for millions of values would hold up every other request.
            rest = head[head.index(b"{") + 1 :] if "id" not in self.document else _without_id(self.document)
            head = b'{"id": %b, %b' % (json.dumps(identity).encode(), rest)
        return head + self.tensors, len(head)


def check_json_length(length: int) -> None:
    """Raise Rejection where a body has a larger JSON part than is read."""
    if length > MOST_JSON:
        message = f"the request's JSON may have {MOST_JSON:,} bytes: send tensors behind it (binary_data_size)"
        raise Rejection(413, "too_large", message)


def trace_of(header: str) -> dict[str, str]:
    """Return the log's field for the trace that a request belongs to, if its header is one of Trace Context."""
    return {TRACE_HEADER: header} if _TRACE.fullmatch(header) else {}


def read_request(body: bytes, json_length: str | None) -> InferenceRequest:
    """Read and check a request's body.

    Args:
        body: JSON, and the bytes of tensors after it.
        json_length: the header that says how many bytes are JSON. None where all of them are.

    Raises:
        Rejection: where the server could not be given this body.
    """
    # int() alone would also take signs, spaces, underscores and the digits of other scripts.
    if json_length is not None and not (json_length.isascii() and json_length.isdecimal() and len(json_length) < 12):
        raise _malformed("Inference-Header-Content-Length must be a number of bytes")
    length = len(body) if json_length is None else int(json_length)
    if length > len(body):
        raise _malformed(f"Inference-Header-Content-Length is {length}, the body has {len(body)} bytes")
    check_json_length(length)
    try:
        # Decoded here, because Python's parser takes UTF-16 as well. tritonserver takes the first of repeated fields.
        text = body[:length].decode()
        document = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=each_once)
        _check(document, len(body))
    # Deep nesting ends Python's parser, or the walk through the document, with RecursionError.
    except (ValueError, RecursionError):
        raise _malformed("the request must be a JSON object with a list of inputs, each field of it once") from None
    return InferenceRequest(document, body[:length], body[length:])


def read_named(body: bytes, json_length: str | None, identity: str) -> Waiting:
    """Read and check a request's body with the arguments of `read_request`, and name it `identity` where it has no id.

    Raises Rejection where the server could not be given this body.
    """
    checked = read_request(body, json_length)
    named, length = checked.named(identity)
    return Waiting(id=checked.id, seconds=checked.seconds, content=checked.content, body=named, json_length=length)


def read_index(body: bytes) -> bytes:
    """Return the body of a request for the list of models as tritonserver may see it.

    Raises Rejection where it is anything else than an object with `ready`, true or false.
    """
    with suppress(ValueError, RecursionError):
        asked = json.loads(body.decode() or "{}") if len(body) <= MOST_INDEX else None
        if isinstance(asked, dict) and (asked == {} or (asked.keys() == {"ready"} and type(asked["ready"]) is bool)):
            return json.dumps(asked).encode()
    raise _malformed('a request for the list of models may have the body {"ready": true} or {"ready": false}, or none')


def _without_id(document: dict[str, Any]) -> bytes:
    """Return what follows the first brace of a document whose id is empty."""
    return json.dumps({key: value for key, value in document.items() if key != "id"}).encode()[1:]


def _refuse_constant(name: str) -> None:
    """Refuse Infinity and NaN, which Python's parser takes although JSON does not know them."""
    raise ValueError(name)


def _check(document: Any, size: int) -> None:
    inputs = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(inputs, list) or not all(isinstance(one, dict) for one in inputs):
        raise _malformed("the request must be a JSON object with a list of inputs")
    identity = document.get("id", "")
    # It goes into a header of the response and into the log, neither of which holds half of a character.
    if not isinstance(identity, str) or not identity.isprintable():
        raise _malformed("the request's id must be a text of printable characters")
    outputs = document.get("outputs", [])
    described = [document, *inputs, *(outputs if isinstance(outputs, list) else [])]
    given = [one.get("parameters", {}) if isinstance(one, dict) else {} for one in described]
    for parameters in given:
        _check_parameters(parameters, size)
    if len(described) + sum(map(len, given)) > MOST_FIELDS:
        raise _malformed(f"a request may have {MOST_FIELDS:,} inputs, outputs and parameters together")
    for tensor in inputs:
        check_shape(tensor.get("shape"), size)


def _check_parameters(parameters: Any, size: int) -> None:
    """Raise Rejection where tritonserver could not hold a number among the parameters of a request or a tensor."""
    if not isinstance(parameters, dict) or any(isinstance(value, (dict, list)) for value in parameters.values()):
        raise _malformed("parameters must be an object of numbers, texts, true and false")
    numbers = {name: abs(value) for name, value in parameters.items() if isinstance(value, (int, float))}
    if max(numbers.values(), default=0) > LARGEST_NUMBER:
        raise _malformed(f"a parameter of the request is larger than {LARGEST_NUMBER}")
    if numbers.get("binary_data_size", 0) > size:
        raise _malformed("a binary_data_size is larger than the request")


def check_shape(shape: Any, size: int) -> None:
    """Raise Rejection where a tensor's shape cannot be that of a request of so many bytes."""
    # By type, since True is an int for isinstance.
    if not isinstance(shape, list) or not all(type(length) is int and length >= 0 for length in shape):
        raise Rejection(400, "bad_shape", "an input's shape must be a list of lengths, 0 or more each")
    if len(shape) > MOST_AXES:
        raise Rejection(400, "bad_shape", f"an input's shape may have {MOST_AXES} axes, got {len(shape)}")
    # tritonserver never answers some of them. An image of 0 bytes is in a batch of 1, and the worker says that it is.
    if shape and shape[0] == 0:
        raise Rejection(400, "bad_shape", "an input's first length is that of the batch, and must be 1 or more")
    # Every element takes at least one byte of the request, so no honest shape is refused. Beside a length of 0 another
    # one may still be too large for the worker.
    if max(math.prod(shape), *shape, 0) > size:
        raise Rejection(400, "bad_shape", f"an input's shape has more elements than the request has bytes ({size})")


def _described(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what a request says of its tensors, without their values, which may be millions."""
    return [{key: value for key, value in tensor.items() if key != "data"} for tensor in inputs]


def _malformed(message: str) -> Rejection:
    return Rejection(400, "malformed_request", message)
