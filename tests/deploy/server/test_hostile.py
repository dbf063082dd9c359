"""Send hostile and broken requests, each of which must be refused in one clear line and do the server no harm."""

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from deploy.client import Client, InvalidImage
from deploy.contract import PIPELINE_MODEL
from deploy.server import Server
from deploy.server.options import MAX_REQUEST_BYTES
from deploy.server.process.workers import children_of
from tests.helpers.hostile import bad_images, fuzzed
from tests.helpers.memory import resident_bytes

INDEX = "/v2/repository/index"
INFER = f"/v2/models/{PIPELINE_MODEL}/infer"
# Codes that blame the request or the model's absence, not a fault of the server.
CLOSED_TO_CLIENTS = ("INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "UNIMPLEMENTED")


@pytest.fixture(autouse=True)
def still_well(server: Server, make_image: Callable[..., bytes], in_process: Any) -> Iterator[None]:
    """Check after each test that the workers are the same, and that a good image gets the right answer."""
    workers = children_of(server.pid)
    yield
    assert children_of(server.pid) == workers
    data = make_image((64, 48), "JPEG")
    with Client(server.grpc_url) as client:
        result = client.segment(data)
    expected = in_process(data)["CLASS_PROBS"].tolist()
    assert list(result.class_probabilities.values()) == pytest.approx(expected, abs=2e-6)


def assert_clean(message: str) -> None:
    """Check that a message is one line that shows nothing of the machine."""
    assert message.strip()
    assert len(message.strip().splitlines()) == 1, message
    for secret in ("Traceback", str(Path.home()), "/tmp/", "site-packages", ".py"):
        assert secret not in message


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_bad_images(server: Server, make_image: Callable[..., bytes], protocol: Any) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url
    accepted = []
    with Client(url, protocol) as client:
        for name, data in bad_images(make_image).items():
            try:
                client.segment(data)
                accepted.append(name)
            except InvalidImage as error:  # noqa: PERF203
                assert_clean(str(error))
    assert not accepted


@pytest.mark.parametrize("count", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_fuzzed_images(server: Server, make_image: Callable[..., bytes], count: int) -> None:
    refused = answered = 0
    before = resident_bytes(server)
    with Client(server.grpc_url) as client:
        for data in fuzzed(make_image, count, seed=11):
            try:
                client.segment(data)
                answered += 1
            # Any other error, such as a server that is gone, ends the test.
            except InvalidImage as error:  # noqa: PERF203
                assert_clean(str(error))
                refused += 1
    # Both must occur, or the fuzzing is too harsh or too mild to prove anything.
    assert refused > count // 4
    assert answered > 0
    # After few images, the allocator's own growth would pass for a leak.
    if count >= 1000:
        assert resident_bytes(server) < 1.10 * before


def image_input(shape: list[int], dtype: str = "UINT8", name: str = "IMAGE", values: Any = None) -> grpc.InferInput:
    tensor = grpc.InferInput(name, shape, dtype)
    tensor.set_data_from_numpy(np.zeros(shape, np.uint8) if values is None else values)
    return tensor


def lying_input(shape: list[int]) -> grpc.InferInput:
    """Make an input that states one shape and carries another."""
    tensor = image_input([1, 4])
    tensor.set_shape(shape)
    return tensor


GRPC_REQUESTS: dict[str, dict[str, Any]] = {
    "unknown model": {"model_name": "resformer2"},
    "model by a path": {"model_name": "../resformer"},
    "unknown version": {"model_version": "7"},
    "version that is no number": {"model_version": "latest"},
    "unknown input": {"inputs": [image_input([1, 4], name="IMAGES")]},
    "no input": {"inputs": []},
    "input twice": {"inputs": [image_input([1, 4]), image_input([1, 4])]},
    "wrong type": {"inputs": [image_input([1, 4], "FP32", values=np.zeros((1, 4), np.float32))]},
    "no batch dimension": {"inputs": [image_input([4])]},
    "three dimensions": {"inputs": [image_input([1, 2, 2])]},
    "batch too large": {"inputs": [image_input([9, 4])]},
    "empty batch": {"inputs": [image_input([0, 4])]},
    "shape and bytes differ": {"inputs": [lying_input([1, 4096])]},
    # 64 bits hold 4 as their product.
    "overflowing dimensions": {"inputs": [lying_input([4, 2**62 + 1])]},
    # tritonserver does not answer it, nor what comes after it.
    "empty batch of nothing": {"inputs": [image_input([0, 0])]},
    "too many axes": {"inputs": [lying_input([1] * 1000)]},
    "a huge dimension beside none": {"inputs": [lying_input([0, 2**62])]},
    "negative dimension": {"inputs": [lying_input([1, -4])]},
    "unknown output": {"outputs": [grpc.InferRequestedOutput("MASKS")]},
    "long id of a bad image": {"request_id": "x" * 100_000},
    "sequence id": {"sequence_id": 3, "sequence_start": True, "inputs": [image_input([1, 4])]},
}


@pytest.mark.parametrize("request_", GRPC_REQUESTS.values(), ids=GRPC_REQUESTS.keys())
def test_wrong_grpc_request(server: Server, request_: dict[str, Any]) -> None:
    arguments = {"model_name": PIPELINE_MODEL, "inputs": [image_input([1, 4])], "client_timeout": 10, **request_}
    # Through tritonclient alone: the project's client makes no such requests.
    with grpc.InferenceServerClient(server.grpc_url) as raw, pytest.raises(InferenceServerException) as error:
        raw.infer(**arguments)
    assert error.value.status().removeprefix("StatusCode.") in CLOSED_TO_CLIENTS
    assert_clean(error.value.message())


def tensor_json(**changes: Any) -> bytes:
    tensor = {"name": "IMAGE", "datatype": "UINT8", "shape": [1, 4], "data": [1, 2, 3, 4], **changes}
    return json.dumps({"inputs": [tensor]}).encode()


def asking_for(classes: object) -> bytes:
    output = {"name": "CLASS_PROBS", "parameters": {"classification": classes}}
    return json.dumps({**json.loads(tensor_json()), "outputs": [output]}).encode()


HTTP_REQUESTS: dict[str, tuple[str, str, bytes]] = {
    "empty body": ("POST", INFER, b""),
    "no json": ("POST", INFER, b"{inputs: nothing}"),
    "cut json": ("POST", INFER, tensor_json()[:40]),
    "json of another kind": ("POST", INFER, b'"inputs"'),
    # Python's parser recurses.
    "deep json": ("POST", INFER, b"[" * 100_000),
    "bytes that are no text": ("POST", INFER, bytes(range(256))),
    "inputs that are no list": ("POST", INFER, b'{"inputs": 7}'),
    "negative dimension": ("POST", INFER, tensor_json(shape=[1, -4])),
    "overflowing dimensions": ("POST", INFER, tensor_json(shape=[2**32, 2**32])),
    # tritonserver 2.51 aborts where it cannot allocate a tensor, and takes every other request with it.
    "dimension that ends the server": ("POST", INFER, tensor_json(shape=[1, 2**62])),
    "dimension of 300 digits": ("POST", INFER, tensor_json(shape=[1, 10**300])),
    "dimension that is no whole number": ("POST", INFER, tensor_json(shape=[1, 4.0])),
    "dimension that is infinite": ("POST", INFER, tensor_json(shape=[1, float("inf")])),
    "empty batch of nothing": ("POST", INFER, tensor_json(shape=[0, 0], data=[])),
    # Multiplied, their lengths have a million digits.
    "too many axes": ("POST", INFER, tensor_json(shape=[9] * 300_000)),
    # tritonserver takes minutes for them.
    "too many parameters": ("POST", INFER, tensor_json(parameters={f"p{number}": 0 for number in range(40_000)})),
    # tritonserver recurses until it ends.
    "deep json for the list of models": ("POST", INDEX, b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"),
    "another question than for the list": ("POST", INDEX, b'{"ready": 1}'),
    "no shape": ("POST", INFER, tensor_json(shape=None)),
    "huge size of binary data": ("POST", INFER, tensor_json(data=[], parameters={"binary_data_size": 2**62})),
    "negative size of binary data": ("POST", INFER, tensor_json(data=[], parameters={"binary_data_size": -(2**62)})),
    "huge parameter": ("POST", INFER, json.dumps({"inputs": [], "parameters": {"priority": 2**70}}).encode()),
    "id that is no text": ("POST", INFER, json.dumps({"inputs": [], "id": 7}).encode()),
    "one byte over the limit": ("POST", INFER, bytes(MAX_REQUEST_BYTES + 1)),
    "shared memory": ("POST", "/v2/systemsharedmemory/region/x/register", b"{}"),
    "trace settings": ("POST", "/v2/trace/setting", b"{}"),
    "dimension that is a text": ("POST", INFER, tensor_json(shape=["1", "4"])),
    "unknown type": ("POST", INFER, tensor_json(datatype="UINT9")),
    "values out of range": ("POST", INFER, tensor_json(data=[300, -1, 2, 3])),
    "values that are texts": ("POST", INFER, tensor_json(data=["a", "b", "c", "d"])),
    "fewer values than the shape": ("POST", INFER, tensor_json(data=[1])),
    "value that no number holds": ("POST", INFER, tensor_json().replace(b"[1, 2, 3, 4]", b"[1e400, 2, 3, 4]")),
    "half a character": ("POST", INFER, tensor_json().replace(b"IMAGE", b"\\ud800")),
    "shape that is stated twice": ("POST", INFER, tensor_json().replace(b'"data"', b'"shape": [1, 1000000], "data"')),
    "negative number of classes": ("POST", INFER, asking_for(-1)),
    "number of classes that is a text": ("POST", INFER, asking_for("x")),
    "unknown path": ("GET", "/v2/secrets", b""),
    "path upwards": ("GET", "/v2/models/../../etc/passwd", b""),
    "wrong method": ("DELETE", INFER, b""),
    "unload": ("POST", f"/v2/repository/models/{PIPELINE_MODEL}/unload", b""),
    "log settings": ("POST", "/v2/logging", b'{"log_file": "/tmp/x"}'),
}


@pytest.mark.parametrize("request_", HTTP_REQUESTS.values(), ids=HTTP_REQUESTS.keys())
def test_wrong_http_request(server: Server, request_: tuple[str, str, bytes]) -> None:
    method, path, body = request_
    connection = http.client.HTTPConnection(server.http_url, timeout=10)
    connection.request(method, path, body)
    response = connection.getresponse()
    content = response.read().decode()
    connection.close()
    # A 5xx would blame the server, and clients would try again.
    assert 400 <= response.status < 500, content
    assert_clean(json.loads(content)["error"])


def exchange(server: Server, *headers: str, body: bytes = b"", until: bytes = b"\r\n\r\n") -> bytes:
    """Send an inference's head and perhaps a body, and return what has come back by the end of some bytes."""
    host, port = server.http_url.split(":")
    head = "\r\n".join([f"POST {INFER} HTTP/1.1", "Host: x", *headers, "", ""]).encode("latin-1")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head + body)
        answer = b""
        while until not in answer and (data := connection.recv(65536)):
            answer += data
        return answer


def test_headers_that_are_no_text(server: Server) -> None:
    headers = ("Authorization: Bearer \xff\xfe", "X-Request-Id: \xff\xfe", "traceparent: \xff", "Content-Length: 2")
    answer = exchange(server, *headers, body=b"{}")
    assert b" 400 " in answer.partition(b"\r\n")[0]


@pytest.mark.parametrize("expect", [(), ("Expect: 100-continue",)], ids=["sent at once", "asked first"])
def test_a_body_that_is_said_to_be_too_large_is_not_waited_for(server: Server, expect: tuple[str, ...]) -> None:
    answer = exchange(server, f"Content-Length: {2**40}", *expect)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_client_that_asks_first_is_told_to_send(server: Server) -> None:
    headers = ("Expect: 100-continue", "Content-Length: 2")
    assert exchange(server, *headers).startswith(b"HTTP/1.1 100 ")
    assert b"HTTP/1.1 400 " in exchange(server, *headers, body=b"{}", until=b'"error"')
    # Others know no such header.
    assert exchange(server, "Expect: a miracle", "Content-Length: 2", body=b"{}").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 400), ("none", 400)]
)
def test_pages_of_other_sites_may_not_ask(server: Server, site: str, status: int) -> None:
    answer = exchange(server, f"Sec-Fetch-Site: {site}", "Content-Length: 2", body=b"{}")
    assert answer.startswith(b"HTTP/1.1 %d " % status)


def test_half_sent_requests_and_idle_connections(server: Server) -> None:
    host, port = server.http_url.split(":")
    # Both kinds hold a connection without a whole request, as a slow network or an attacker does.
    connections = [socket.create_connection((host, int(port))) for _ in range(200)]
    for connection in connections[:100]:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nhalf".encode())
    with Client(server.http_url, "http") as client, pytest.raises(InvalidImage):
        client.segment(b"asked while they hang about")
    for connection in connections:
        connection.close()


def test_many_tiny_requests(server: Server) -> None:
    with Client(server.grpc_url) as client:
        for _ in range(500):
            with pytest.raises(InvalidImage):
                client.segment(b"\0")
