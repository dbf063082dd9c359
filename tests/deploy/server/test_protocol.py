"""Hold the proxy to the protocol's letter where clients of other projects rely on it."""

import gzip
import http.client
import json
import re
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as schema

from deploy.client import Client
from deploy.client.transport import Access
from deploy.contract import PIPELINE_MODEL
from deploy.server import Server
from deploy.server.options import FREE_PORTS
from deploy.server.proxy.grpc_proxy import INFER, SERVICE
from tests.helpers.imports import ROOT

MakeImage = Callable[..., bytes]
TOKEN = "sesame"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """Collect what the server on IPv6 logs."""
    return []


@pytest.fixture(scope="module")
def six(repository: Path, lines: list[str]) -> Iterator[Server]:
    """Run a server with a token on every address of both kinds."""
    with Server(repository, replace(FREE_PORTS, address="::", token=TOKEN), lines.append) as running:
        yield running


def ask(server: Server, method: str, path: str, body: bytes = b"", **headers: str) -> http.client.HTTPResponse:
    """Send one request, and return the response with its content as `content`."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(http.client.HTTPConnection("127.0.0.1", server.options.http_port, timeout=30)) as connection:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        response.content = response.read()  # type: ignore[attr-defined]
        return response


def document(response: http.client.HTTPResponse) -> dict[str, object]:
    read: dict[str, object] = json.loads(response.content)  # type: ignore[attr-defined]
    return read


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/v2/health/live", 200, {"live": True}),
        ("/v2/health/ready", 200, {"ready": True}),
        (f"/v2/models/{PIPELINE_MODEL}/ready", 200, {"name": PIPELINE_MODEL, "ready": True}),
        (f"/v2/models/{PIPELINE_MODEL}/versions/1/ready", 200, {"name": PIPELINE_MODEL, "ready": True}),
        (f"/v2/models/{PIPELINE_MODEL}/versions/77/ready", 404, {"name": PIPELINE_MODEL, "ready": False}),
        ("/v2/models/none/ready", 404, {"name": "none", "ready": False}),
    ],
)
def test_readiness_over_http(server: Server, path: str, status: int, says: dict[str, object]) -> None:
    response = ask(server, "GET", path)
    assert (response.status, document(response)) == (status, says)
    head = ask(server, "HEAD", path)
    assert (head.status, head.content) == (status, b"")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "version", "ready"), [(PIPELINE_MODEL, "", True), (PIPELINE_MODEL, "77", False)])
def test_readiness_over_grpc(server: Server, name: str, version: str, ready: bool) -> None:
    request = schema.ModelReadyRequest(name=name, version=version)
    with grpc.insecure_channel(server.grpc_url) as channel:
        answer = channel.unary_unary(SERVICE + "ModelReady")(request.SerializeToString(), timeout=10)
    assert schema.ModelReadyResponse.FromString(answer).ready == ready


def test_head_and_the_index_of_models(server: Server) -> None:
    described, head = ask(server, "GET", "/v2"), ask(server, "HEAD", "/v2")
    assert (head.status, head.headers["Content-Length"]) == (200, described.headers["Content-Length"])
    index = ask(server, "POST", "/v2/repository/index", b"{}")
    assert {model["name"] for model in document(index)} == set(server.release.configs)  # type: ignore[index]
    with grpc.insecure_channel(server.grpc_url) as channel:
        answer = channel.unary_unary(SERVICE + "RepositoryIndex")(b"", timeout=10)
    assert {model.name for model in schema.RepositoryIndexResponse.FromString(answer).models} == set(
        server.release.configs
    )


@pytest.mark.parametrize("path", ["repository/models/x/load", "systemsharedmemory/status", "logging", "trace/setting"])
def test_closed_calls_are_forbidden(server: Server, path: str) -> None:
    assert ask(server, "POST", f"/v2/{path}", b"{}").status == 403


def infer_body(image: bytes, **parameters: int) -> bytes:
    tensor = {"name": "IMAGE", "datatype": "UINT8", "shape": [1, len(image)], "data": list(image)}
    outputs = [{"name": "CLASS_PROBS"}]
    return json.dumps({"inputs": [tensor], "outputs": outputs, "parameters": parameters}).encode()


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)]
)
def test_a_compressed_body_is_that_body(
    server: Server, make_image: MakeImage, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    body, path = infer_body(make_image()), f"/v2/models/{PIPELINE_MODEL}/infer"
    plain = ask(server, "POST", path, body)
    compressed = ask(server, "POST", path, compress(body), Content_Encoding=encoding)
    assert (plain.status, compressed.status) == (200, 200)
    assert document(compressed)["outputs"] == document(plain)["outputs"]


@pytest.mark.parametrize(("name", "value"), [("timeout", 2**62), ("sequence_id", 2**62), ("priority", 2**63)])
def test_numbers_of_64_bits_are_taken_over_both(server: Server, make_image: MakeImage, name: str, value: int) -> None:
    image = make_image()
    response = ask(server, "POST", f"/v2/models/{PIPELINE_MODEL}/infer", infer_body(image, **{name: value}))
    assert response.status == 200
    request = schema.ModelInferRequest(model_name=PIPELINE_MODEL, raw_input_contents=[image])
    request.inputs.add(name="IMAGE", datatype="UINT8", shape=[1, len(image)])
    # The protocol's type of a priority alone has no sign.
    if name == "priority":
        request.parameters[name].uint64_param = value
    else:
        request.parameters[name].int64_param = value
    with grpc.insecure_channel(server.grpc_url) as channel:
        assert channel.unary_unary(INFER)(request.SerializeToString(), timeout=30)


def test_a_token_may_come_in_any_case_and_is_asked_for(six: Server) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert ask(six, "GET", "/v2", Authorization=f"{scheme} {TOKEN}").status == 200
    for wrong in (f"Basic {TOKEN}", TOKEN, "Bearer", f"Bearer {TOKEN}x"):
        response = ask(six, "GET", "/v2", Authorization=wrong)
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("host", ["[::1]", "127.0.0.1"])
def test_ipv6_is_every_address(six: Server, make_image: MakeImage, host: str) -> None:
    for protocol, port in (("grpc", six.options.grpc_port), ("http", six.options.http_port)):
        with Client(f"{host}:{port}", protocol, access=Access(token=TOKEN)) as client:  # type: ignore[arg-type]
            assert client.segment(make_image()).mask.shape == (51, 51)
    assert six.grpc_url == f"[::1]:{six.options.grpc_port}"


def test_a_trace_is_carried_into_the_log(six: Server, lines: list[str], make_image: MakeImage) -> None:
    image = make_image()
    bearer, body = f"Bearer {TOKEN}", infer_body(image)
    ask(six, "POST", f"/v2/models/{PIPELINE_MODEL}/infer", body, traceparent=TRACE, Authorization=bearer)
    ask(six, "GET", "/v2", traceparent="00-not-a-trace\tat all", Authorization=bearer)
    request = schema.ModelInferRequest(model_name=PIPELINE_MODEL, raw_input_contents=[image])
    request.inputs.add(name="IMAGE", datatype="UINT8", shape=[1, len(image)])
    metadata = [("traceparent", TRACE), ("triton-grpc-protocol-resformer-token", TOKEN)]
    with grpc.insecure_channel(f"127.0.0.1:{six.options.grpc_port}") as channel:
        channel.unary_unary(INFER)(request.SerializeToString(), metadata=metadata, timeout=30)
    traced = [json.loads(line) for line in lines if '"traceparent"' in line]
    assert [(line["protocol"], line["traceparent"]) for line in traced] == [("http", TRACE), ("grpc", TRACE)]
    assert all(line["request"] for line in traced), "each has an id, which the worker's line has too"


def test_classifications_have_the_labels_names(server: Server, make_image: MakeImage) -> None:
    body = json.loads(infer_body(make_image()))
    body["outputs"][0]["parameters"] = {"classification": 2}
    answer: Any = document(ask(server, "POST", f"/v2/models/{PIPELINE_MODEL}/infer", json.dumps(body).encode()))
    values, indices, names = zip(*(entry.split(":") for entry in answer["outputs"][0]["data"]), strict=True)
    assert sorted(map(float, values), reverse=True) == list(map(float, values))
    assert [server.release.contract.labels[int(index)] for index in indices] == list(names)


def test_a_broken_body_is_no_fault_of_the_servers(six: Server, lines: list[str], make_image: MakeImage) -> None:
    body, path, bearer = (
        gzip.compress(infer_body(make_image())),
        f"/v2/models/{PIPELINE_MODEL}/infer",
        f"Bearer {TOKEN}",
    )
    lines.clear()
    for broken in (body[:-20], body[:40] + bytes(40) + body[80:], b"none"):
        assert ask(six, "POST", path, broken, Content_Encoding="gzip", Authorization=bearer).status == 400
    with closing(http.client.HTTPConnection("127.0.0.1", six.options.http_port)) as leaving:
        leaving.request("POST", path, body, {"Content-Length": str(2 * len(body)), "Authorization": bearer})
    while not any('"rejected": "client_gone"' in line for line in lines):
        time.sleep(0.02)
    assert not any('"error"' in line for line in lines)


def test_closed_extensions_are_not_announced(server: Server) -> None:
    over_http: Any = document(ask(server, "GET", "/v2"))
    with grpc.insecure_channel(server.grpc_url) as channel:
        answer = channel.unary_unary(SERVICE + "ServerMetadata")(b"", timeout=10)
    over_grpc = schema.ServerMetadataResponse.FromString(answer)
    assert (over_grpc.name, over_grpc.version) == (over_http["name"], over_http["version"])
    assert list(over_grpc.extensions) == over_http["extensions"]
    assert {"classification", "binary_tensor_data"} < set(over_http["extensions"])
    assert not re.search("shared_memory|unload|trace|logging", " ".join(over_http["extensions"]))


def test_readiness_and_starts_are_measured(server: Server) -> None:
    with closing(http.client.HTTPConnection(server.metrics_url, timeout=30)) as connection:
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode().splitlines()
    assert "resformer_ready 1" in metrics
    assert f'resformer_worker_starts_total{{model="{PIPELINE_MODEL}"}} 1' in metrics


def test_the_published_examples_are_answered(server: Server, make_image: MakeImage, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(make_image(kind="JPEG"))
    readme = (ROOT / "deploy" / "README.md").read_text()
    examples = [block for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "curl" in block]
    assert len(examples) == 2
    outputs = []
    for example in examples:
        command = example.replace("localhost:8000", server.http_url)
        ran = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True)
        outputs.append(json.loads(ran.stdout)["outputs"])
    assert outputs[0] == outputs[1]
    assert [(output["name"], output["shape"]) for output in outputs[0]] == [("CLASS_PROBS", [1, 2])]
