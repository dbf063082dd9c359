"""Read what a gRPC inference says of itself from the outermost layer of its bytes, without making objects of it.

protobuf's own parser copies the tensors, and makes gigabytes of objects of a message of 64 MB that is made for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus

from deploy.server.proxy.request import Rejection, check_shape

# The numbers of ModelInferRequest's fields.
MODEL, ID, PARAMETERS, INPUTS, TENSORS = 1, 3, 4, 5, 7
# Of InferInputTensor.
SHAPE = 3
# Of ModelInferRequest.parameters' entries, and of InferParameter.
KEY, VALUE, INT64, UINT64 = 1, 2, 2, 5
# Kinds of values on the wire.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# An inference has about ten fields. Each takes tritonserver far more memory than it has bytes.
MOST_FIELDS = 1000
MOST_SHAPE = 640  # bytes of one, which are 64 axes or more
# Of all inputs, without their tensors or with those that are no raw bytes. tritonserver takes 30 times their bytes.
MOST_DESCRIBED = 16 * 2**20
# What begins the fields id of ModelInferRequest, and error_message and infer_response of ModelStreamInferResponse.
_ID, _ERROR, _RESPONSE = b"\x1a", b"\x0a", b"\x12"


@dataclass
class Inference:
    """Describe a request.

    model: its name.
    id: what the client calls it.
    timeout: microseconds that the client grants it, 0 for any number.
    content: what makes it another one than others: its inputs' names, types, shapes and bytes.
    """

    model: str = ""
    id: str = ""
    timeout: int = 0
    content: list[memoryview] = field(default_factory=list)


def read_inference(message: bytes) -> Inference:
    """Read a serialised ModelInferRequest.

    Raises Rejection where it is none, has too many fields, inputs that are too large outside of raw_input_contents, or
    shapes of more elements than it has bytes.
    """
    inference, inputs = Inference(), []
    for number, value in _fields(memoryview(message)):
        if isinstance(value, int):
            continue
        if number == MODEL:
            inference.model = bytes(value).decode(errors="replace")
        elif number == ID:
            inference.id = bytes(value).decode(errors="replace")
        elif number == PARAMETERS:
            inference.timeout = _timeout(value) or inference.timeout
        elif number in (TENSORS, INPUTS):
            inference.content.append(value)
            inputs += [value] if number == INPUTS else []
    if sum(map(len, inputs)) > MOST_DESCRIBED:
        raise _malformed(f"inputs of more than {MOST_DESCRIBED:,} bytes belong into raw_input_contents")
    for tensor in inputs:
        check_shape(_shape(tensor), len(message))
    return inference


def _shape(tensor: memoryview) -> list[int]:
    """Return the lengths of a serialised InferInputTensor's axes, which are packed or one a field."""
    shape: list[int] = []
    for number, value in _fields(tensor):
        if number != SHAPE:
            continue
        if isinstance(value, int):
            shape.append(value)
        elif len(value) > MOST_SHAPE:
            raise _malformed(f"a shape has more than {MOST_SHAPE} bytes")
        else:
            shape += _numbers(value)
    # Negative numbers have the highest bit set.
    return [length - 2**64 if length >= 2**63 else length for length in shape]


def _numbers(packed: memoryview) -> list[int]:
    numbers, place = [], 0
    while place < len(packed):
        number, place = _read_varint(packed, place)
        numbers.append(number)
    return numbers


def with_id(message: bytes, identity: str) -> bytes:
    """Return a serialised ModelInferRequest with another id: of a field that comes twice, the last one counts."""
    text = identity.encode()
    return message + _ID + _varint(len(text)) + text


def streamed(response: bytes) -> bytes:
    """Return a serialised ModelStreamInferResponse with a serialised ModelInferResponse in it."""
    return _RESPONSE + _varint(len(response)) + response


def streamed_error(message: str) -> bytes:
    """Return a serialised ModelStreamInferResponse with an error in it."""
    text = message.encode()
    return _ERROR + _varint(len(text)) + text


def _timeout(entry: memoryview) -> int:
    """Return the value of a parameter that is called timeout and is a number, else 0."""
    fields = dict(_fields(entry))
    value = fields.get(VALUE)
    key = fields.get(KEY)
    if not isinstance(key, memoryview) or bytes(key[:8]) != b"timeout" or not isinstance(value, memoryview):
        return 0
    numbers = dict(_fields(value))
    given = numbers.get(INT64, numbers.get(UINT64, 0))
    return given if isinstance(given, int) and given < 2**63 else 0


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and the value of each field, 0 for a value of a fixed length."""
    place = count = 0
    try:
        while place < len(data):
            key, place = _read_varint(data, place)
            kind, length = key & 7, 0
            if kind == _VARINT:
                value, place = _read_varint(data, place)
                yield key >> 3, value
            elif kind == _BYTES:
                length, place = _read_varint(data, place)
                yield key >> 3, data[place : place + length]
            elif kind in (_FIXED64, _FIXED32):
                length = 8 if kind == _FIXED64 else 4
                yield key >> 3, 0
            else:
                raise _malformed("the message is no ModelInferRequest")
            place, count = place + length, count + 1
            if place > len(data):
                raise IndexError
            if count > MOST_FIELDS:
                raise _malformed(f"the message has more than {MOST_FIELDS} fields")
    except IndexError:
        raise _malformed("the message ends within a field") from None


def _read_varint(data: memoryview, place: int) -> tuple[int, int]:
    """Return a number of 7 bits a byte, lowest first, and the place behind it."""
    value = shift = 0
    while shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise _malformed("the message holds a number of more than 64 bits")


def _malformed(message: str) -> Rejection:
    return Rejection(HTTPStatus.BAD_REQUEST, "malformed_request", message)


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
