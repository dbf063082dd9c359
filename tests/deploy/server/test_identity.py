"""Test how the hash of the network that answered is put into a response."""

import json

import pytest
from tritonclient.grpc import service_pb2 as schema

from deploy.server.proxy.identity import identified_json, identified_message

SHA256 = "0123456789abcdef" * 4


def hash_of(model: str, version: str) -> str:
    """Hold one version of one model."""
    return SHA256 if (model, version) == ("resformer", "12") else ""


def message(model: str = "resformer", version: str = "12") -> bytes:
    """Make a response over gRPC."""
    response = schema.ModelInferResponse(model_name=model, model_version=version, id='"model_version":"13"')
    response.outputs.add(name="MASK", datatype="UINT8", shape=[1, 2, 2])
    response.raw_output_contents.append(bytes(1000))
    content: bytes = response.SerializeToString()
    return content


def test_a_message_gets_one_parameter_and_keeps_the_rest() -> None:
    before, after = schema.ModelInferResponse(), schema.ModelInferResponse()
    before.ParseFromString(message())
    after.ParseFromString(identified_message(message(), hash_of))
    assert after.parameters.pop("sha256").string_param == SHA256
    assert after == before


@pytest.mark.parametrize("other", [b"", b"\x0a", b"\x0a\xff", b"nonsense", b"\x0a\x09resf", message("other")])
def test_what_is_not_known_or_no_response_stays_as_it_is(other: bytes) -> None:
    assert identified_message(other, hash_of) == other


@pytest.mark.parametrize("tensors", [b"", bytes(1000)])
def test_json_gets_one_parameter_and_keeps_the_rest(tensors: bytes) -> None:
    # As tritonserver writes it: compact, and with the client's id first.
    fields = {"id": '"model_name":"x","model_version":"13"', "model_name": "resformer", "model_version": "12"}
    head = json.dumps({**fields, "outputs": []}, separators=(",", ":")).encode()
    body, length = identified_json(head + tensors, len(head), hash_of)
    assert json.loads(body[:length]) == {"parameters": {"sha256": SHA256}, **fields, "outputs": []}
    assert body[length:] == tensors


@pytest.mark.parametrize("body", [b"", b"{}", b'{"error":"no"}', b'{"model_name":"resformer","model_version":"1"}'])
def test_json_of_others_stays_as_it_is(body: bytes) -> None:
    assert identified_json(body, len(body), hash_of) == (body, len(body))
