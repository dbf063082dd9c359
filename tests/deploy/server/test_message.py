"""Compare what is read from the bytes of a gRPC inference with protobuf's own reading."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as schema

from deploy.server.proxy.message import MOST_DESCRIBED, read_inference, streamed, streamed_error, with_id
from deploy.server.proxy.request import MOST_AXES, MOST_FIELDS, Rejection

TEXTS = st.text(max_size=300)


@given(
    model=TEXTS,
    identity=TEXTS,
    timeout=st.integers(0, 2**63 - 1),
    unsigned=st.booleans(),
    tensors=st.lists(st.binary(max_size=300), max_size=3),
)
def test_names_and_numbers_are_those_of_protobuf(
    model: str, identity: str, timeout: int, unsigned: bool, tensors: list[bytes]
) -> None:
    request = schema.ModelInferRequest(model_name=model, id=identity, raw_input_contents=tensors)
    shape = [1, sum(map(len, tensors))]
    request.inputs.add(name="IMAGE", datatype="UINT8", shape=shape).contents.int_contents.extend([1, -1])
    request.parameters["other"].string_param = "timeout"
    if unsigned:
        request.parameters["timeout"].uint64_param = timeout
    else:
        request.parameters["timeout"].int64_param = timeout
    read = read_inference(request.SerializeToString())
    assert (read.model, read.id, read.timeout) == (model, identity, timeout)
    assert read.content == [request.inputs[0].SerializeToString(deterministic=True), *tensors]


@given(shape=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), max_size=20), packed=st.booleans())
def test_shapes_of_more_elements_than_bytes_are_refused(shape: list[int], packed: bool) -> None:
    request = schema.ModelInferRequest(model_name="m", raw_input_contents=[bytes(100)])
    request.inputs.add(name="IMAGE", shape=shape if packed else [])
    message = request.SerializeToString()
    if not packed:
        # One field for each length, as older writers have it.
        inner = request.inputs[0].SerializeToString() + b"".join(b"\x18" + number(length) for length in shape)
        message += b"\x2a" + number(len(inner)) + inner
        again = schema.ModelInferRequest.FromString(message)
        assert list(again.inputs[-1].shape) == shape
    honest = all(0 <= length <= len(message) for length in shape) and math.prod(shape) <= len(message)
    honest = honest and len(shape) <= MOST_AXES and shape[:1] != [0]
    try:
        read_inference(message)
    except Rejection as rejection:
        assert not honest and rejection.reason == "bad_shape"
    else:
        assert honest


def number(value: int) -> bytes:
    """Encode a number of 64 bits as protobuf does."""
    value &= 2**64 - 1
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


@given(identity=TEXTS, other=TEXTS)
def test_an_id_is_added_or_replaced(identity: str, other: str) -> None:
    request = schema.ModelInferRequest(model_name="m", id=other)
    again = schema.ModelInferRequest.FromString(with_id(request.SerializeToString(), identity))
    # proto3 writes no empty text, and reads one as the last that came.
    assert (again.model_name, again.id) == ("m", identity)


@given(identity=st.text(max_size=300), size=st.integers(0, 20_000))
def test_answers_of_a_stream_are_those_of_protobuf(identity: str, size: int) -> None:
    response = schema.ModelInferResponse(id=identity, raw_output_contents=[bytes(size)])
    for end in (False, True):
        read = schema.ModelStreamInferResponse.FromString(streamed(response.SerializeToString(), end=end))
        if end:
            assert read.infer_response.parameters.pop("triton_final_response").bool_param
        assert read.infer_response == response
    failed = schema.ModelStreamInferResponse.FromString(streamed_error("wrong", identity))
    assert (failed.error_message, failed.infer_response.id) == ("wrong", identity)


@pytest.mark.parametrize("asked", [True, False])
def test_the_wish_for_a_sign_of_the_end_is_read(asked: bool) -> None:
    request = schema.ModelInferRequest(model_name="m")
    request.parameters["triton_enable_empty_final_response"].bool_param = asked
    request.parameters["timeout"].int64_param = 7
    read = read_inference(request.SerializeToString())
    assert (read.wants_end, read.timeout) == (asked, 7)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        schema.ModelInferRequest.FromString(data)
        valid = True
    except Exception:
        valid = False
    try:
        read_inference(data)
    except Rejection as rejection:
        # Groups, which protobuf skips, are in no message of the protocol.
        assert not valid or "no ModelInferRequest" in rejection.message or rejection.reason == "bad_shape"
        assert rejection.status == 400


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x3a\x00" * (MOST_FIELDS + 1), "more than 1000 fields"),
        (2 * (b"\x2a\x81\x80\x80\x04" + bytes(MOST_DESCRIBED // 2 + 1)), "belong into raw_input_contents"),
        (b"\x3a\xff\x01", "ends within a field"),
        (b"\x3a" + b"\xff" * 11, "more than 64 bits"),
        (b"\x2a\x84\x05\x1a\x81\x05" + bytes(641), "a shape has more than 640 bytes"),
    ],
    ids=["empty tensors", "inputs that are no raw bytes", "cut", "endless number", "a long shape"],
)
def test_what_would_take_tritonserver_much_memory_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(Rejection, match=says):
        read_inference(data)
