"""Read what a gRPC inference says of itself from the outermost layer of its bytes, without making objects of it.

protobuf's own parser copies the tensors, and makes gigabytes of objects of a message of 64 MB that is made for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus

from deploy.server.proxy.request import MOST_FIELDS, Rejection, check_shape

# The numbers of ModelInferRequest's fields.
MODEL, ID, PARAMETERS, INPUTS, TENSORS = 1, 3, 4, 5, 7
# Of InferInputTensor.
SHAPE = 3
# Of ModelInferRequest.parameters' entries, and of InferParameter.
KEY, VALUE, BOOL, INT64, UINT64 = 1, 2, 1, 2, 5
# Asks for a sign on the last response to a request of a stream, which here is the only one, and the sign itself: an
# entry of ModelInferResponse.parameters that is true.
WANTS_END = b"triton_enable_empty_final_response"
_END = b"\x22\x1b\x0a\x15triton_final_response\x12\x02\x08\x01"
# Kinds of values on the wire.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
MOST_SHAPE = 640  # bytes of one, which are 64 axes or more
# Of all inputs, without their tensors or with those that are no raw bytes. tritonserver takes 30 times their bytes.
MOST_DESCRIBED = 16 * 2**20
# What begins the fields id of ModelInferRequest and ModelInferResponse, and error_message and infer_response of
# ModelStreamInferResponse.
_ID, _ERROR, _RESPONSE = b"\x1a", b"\x0a", b"\x12"


@dataclass
class Inference:
    """Describe a request.

    model: its name.
    id: what the client calls it.
    timeout: microseconds that the client grants it, 0 for any number.
    wants_end: whether the last response of a stream to it is to say so.
    content: what makes it another one than others: its inputs' names, types, shapes and bytes.
    """

    model: str = ""
    id: str = ""
    timeout: int = 0
    wants_end: bool = False
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
            name, given = _parameter(value)
            inference.timeout = given.get(INT64, given.get(UINT64, 0)) if name == b"timeout" else inference.timeout
            inference.wants_end = inference.wants_end or (name == WANTS_END and bool(given.get(BOOL)))
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


def streamed(response: bytes, *, end: bool) -> bytes:
    """Return a serialised ModelStreamInferResponse with a serialised ModelInferResponse in it, that may be the end."""
    whole = response + _END if end else response
    return _RESPONSE + _varint(len(whole)) + whole


def streamed_error(message: str, identity: str) -> bytes:
    """Return a serialised ModelStreamInferResponse with an error in it, and the id of the request that it answers."""
    text, name = message.encode(), identity.encode()
    response = _ID + _varint(len(name)) + name
    return _ERROR + _varint(len(text)) + text + _RESPONSE + _varint(len(response)) + response


def _parameter(entry: memoryview) -> tuple[bytes, dict[int, int]]:
    """Return the name of a parameter, and its number by the kind that it is given as."""
    fields = dict(_fields(entry))
    key, value = fields.get(KEY), fields.get(VALUE)
    if not isinstance(key, memoryview) or len(key) > len(WANTS_END) or not isinstance(value, memoryview):
        return b"", {}
    return bytes(key), {kind: one for kind, one in _fields(value) if isinstance(one, int) and one < 2**63}


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
