"""Test what the proxy lets through: a request with sane shapes, or one line of refusal for any other bytes."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.server.proxy.request import (
    LARGEST_NUMBER,
    InferenceRequest,
    Rejection,
    Rejections,
    read_index,
    read_named,
    read_request,
)

# Floats include NaN and infinity, which Python writes as JSON although JSON does not know them.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
)
TENSORS = st.fixed_dictionaries({"shape": st.lists(st.integers(-3, 2**64)) | JSON}, optional={"data": JSON})
REQUESTS = st.fixed_dictionaries({"inputs": st.lists(TENSORS) | JSON}, optional={"id": JSON, "parameters": JSON})


def checked(body: bytes, length: str | None) -> InferenceRequest | None:
    """Return the request, or None where it was refused in one line."""
    try:
        return read_request(body, length)
    except Rejection as rejection:
        assert rejection.status == 400
        assert rejection.message
        assert "\n" not in rejection.message
        return None


@given(body=st.binary(), length=st.none() | st.text() | st.integers(-5, 300).map(str))
def test_any_bytes_are_checked(body: bytes, length: str | None) -> None:
    checked(body, length)


@given(document=REQUESTS, tail=st.binary())
def test_what_passes_is_safe_and_arrives_unchanged(document: dict[str, Any], tail: bytes) -> None:
    head = json.dumps(document).encode()
    request = checked(head + tail, str(len(head)))
    if request is None:
        return
    # A tensor's element takes at least one byte, so the server never allocates much more than was sent.
    assert all(math.prod(one["shape"]) <= len(head + tail) for one in document["inputs"])
    body, length = request.named("given")
    assert json.loads(body[:length]) == {**document, "id": "given"}
    assert body[length:] == tail


# Around Python's limit of 1000 frames, and far beyond it.
@pytest.mark.parametrize("depth", [10, 300, 900, 100_000])
def test_depth_ends_in_a_refusal_or_an_answer(depth: int) -> None:
    checked(b'{"inputs": [], "parameters": ' + b"[" * depth + b"]" * depth + b"}", None)


@pytest.mark.parametrize("number", [LARGEST_NUMBER + 1, -LARGEST_NUMBER - 1, 1e300, float("inf"), float("nan")])
def test_numbers_that_no_parameter_holds(number: float) -> None:
    assert checked(json.dumps({"inputs": [], "parameters": {"priority": number}}).encode(), None) is None
    tensor = {"name": "IMAGE", "shape": [0], "parameters": {"binary_data_size": number}}
    assert checked(json.dumps({"inputs": [tensor]}).encode(), None) is None


IMAGE = '"inputs": [{"name": "IMAGE", "datatype": "UINT8", "shape": [1, 3], "data": [1, 2, 3]}]'


@pytest.mark.parametrize(
    "text",
    [
        '{"inputs": [{"name": "IMAGE", "shape": [1, 1000000], "shape": [1, 3], "data": [1, 2, 3]}]}',
        f'{{"inputs": [], {IMAGE}}}',
        f'{{"id": "a", "id": "b", {IMAGE}}}',
        f'{{"id": "a\\r\\nb", {IMAGE}}}',
        f'{{"id": "a\\ud800", {IMAGE}}}',
        f'{{"parameters": [], {IMAGE}}}',
        f'{{"parameters": {{"x": [1]}}, {IMAGE}}}',
    ],
)
def test_what_readers_of_json_take_for_different_things_is_refused(text: str) -> None:
    assert checked(text.encode(), None) is None


def test_only_utf8_is_json() -> None:
    assert checked(f"{{{IMAGE}}}".encode(), None) is not None
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        assert checked(f"{{{IMAGE}}}".encode(encoding), None) is None


def test_requests_of_the_same_bytes_and_other_shapes_are_told_apart() -> None:
    contents = []
    for shape in ([1, 4], [4, 1], [1, 4]):
        head = json.dumps({"id": str(shape), "inputs": [{"name": "IMAGE", "shape": shape}]}).encode()
        request = checked(head + b"abcd", str(len(head)))
        assert request is not None
        contents.append(request.content)
    assert contents[0] == contents[2] != contents[1]


@pytest.mark.parametrize(
    ("body", "forwarded"),
    [
        (b"", b"{}"),
        (b" {}", b"{}"),
        (b'{"ready":true}', b'{"ready": true}'),
        (b'{"ready": false}', b'{"ready": false}'),
    ],
)
def test_what_the_list_of_models_may_be_asked_is_written_anew(body: bytes, forwarded: bytes) -> None:
    assert read_index(body) == forwarded


@pytest.mark.parametrize(
    "body", [b"[]", b'{"ready": 1}', b'{"name": "x"}', b'{"a":' + b"[" * 10**6, b"\xff", b" " * 2000]
)
def test_nothing_else_reaches_the_list_of_models(body: bytes) -> None:
    with pytest.raises(Rejection, match="a request for the list of models may have the body"):
        read_index(body)


def test_an_empty_id_is_replaced_where_the_body_is_read() -> None:
    waiting = read_named(f'{{"id": "", {IMAGE}}}'.encode(), None, "own")
    assert json.loads(waiting.body) == {"id": "own", **json.loads(f"{{{IMAGE}}}")}
    assert (waiting.id, waiting.json_length) == ("", len(waiting.body))


def test_rejections_are_counted_in_prometheus_text() -> None:
    rejections = Rejections()
    for reason in ("too_large", "bad_shape", "too_large"):
        rejections.add(reason)
    assert rejections.text().splitlines()[1:] == [
        "# TYPE resformer_rejected_requests_total counter",
        'resformer_rejected_requests_total{reason="bad_shape"} 1',
        'resformer_rejected_requests_total{reason="too_large"} 2',
    ]
