"""Test the HTTP proxy before the real server: true health, limits, request ids, metrics, token and TLS."""

import gzip
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.client import Client, ClientError, InvalidImage
from deploy.client.transport import Access, Protocol
from deploy.contract import PIPELINE_MODEL
from deploy.server import Server, ServerError, Supervisor, Tls
from deploy.server.options import FREE_PORTS
from deploy.server.process.workers import workers_of
from deploy.server.proxy.tls import server_context
from tests.helpers.serving import served

MakeImage = Callable[..., bytes]
TOKEN = "open-sesame"


@pytest.fixture(scope="module")
def log() -> list[str]:
    """Collect the lines that the guarded server logs."""
    return []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """Make a certificate for localhost that is signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    tls = Tls(folder / "certificate.pem", folder / "key.pem")
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(tls.key), "-out", str(tls.certificate)]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name, *files]
    subprocess.run(command, check=True, capture_output=True)
    return tls


@pytest.fixture(scope="module")
def guarded(repository: Path, certificate: Tls, log: list[str]) -> Iterator[Server]:
    """Run a server with TLS, a token and a low limit on requests."""
    options = replace(FREE_PORTS, max_request_bytes=100_000, tls=certificate, token=TOKEN)
    with Server(repository, options, log.append) as running:
        yield running


def get(url: str, path: str) -> tuple[int, str]:
    """Return the status and body of a GET request."""
    connection = http.client.HTTPConnection(url, timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    return response.status, response.read().decode()


def counted(server: Server, family: str, reason: str) -> float:
    """Read a counter from the metrics, 0 where it is not there yet."""
    found = re.search(rf'^{family}{{reason="{reason}"}} (\S+)$', get(server.metrics_url, "/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_health_is_what_the_last_probe_said(repository: Path) -> None:
    with Server(repository, FREE_PORTS) as server:
        ready = ("/v2/health/ready", f"/v2/models/{PIPELINE_MODEL}/ready")
        assert [get(server.http_url, path)[0] for path in ready] == [200, 200]
        os.kill(workers_of(server.pid, PIPELINE_MODEL)[0], signal.SIGKILL)
        # The supervisor reports twice: before the repair and after it.
        seen: list[int] = []
        supervisor = Supervisor(server, lambda line: seen.append(get(server.http_url, ready[0])[0]))
        while not seen:
            supervisor.attend()
        assert seen == [503, 503], "not ready from the fault to the end of its repair"
        assert get(server.http_url, ready[0])[0] == 200
        assert get(server.http_url, "/v2/health/live")[0] == 200


def test_clients_that_know_no_tls_add_lines_of_json_alone(
    repository: Path, certificate: Tls, make_image: MakeImage, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("wb") as log:
        files = "--tls-certificate", str(certificate.certificate), "--tls-key", str(certificate.key)
        with served(repository, *files, stderr=log) as server:
            for url in (server.grpc, server.http):
                host, port = url.split(":")
                for data in (b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(range(256))):
                    with socket.create_connection((host, int(port)), timeout=30) as connection, suppress(OSError):
                        connection.sendall(data)
                        connection.recv(4096)
            with Client(server.grpc, access=Access(certificate=certificate.certificate)) as client:
                assert client.segment(make_image()).mask.shape == (51, 51)
    lines = (tmp_path / "log").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_each_reason_is_counted_at_one_address(server: Server, make_image: MakeImage) -> None:
    images, requests = "resformer_rejected_images_total", "resformer_rejected_requests_total"
    # Differences, since the server and its counters are shared with other tests.
    before = counted(server, images, "empty"), counted(server, images, "not_an_image")
    cut = counted(server, images, "damaged"), counted(server, requests, "malformed_request")
    whole = make_image(kind="JPEG")
    with Client(server.grpc_url) as client:
        for data in (b"no image", b"no image either", whole[: len(whole) // 2]):
            with pytest.raises(InvalidImage):
                client.segment(data)
    connection = http.client.HTTPConnection(server.http_url, timeout=10)
    connection.request("POST", f"/v2/models/{PIPELINE_MODEL}/infer", b"{")
    assert connection.getresponse().status == 400
    # The server gathers its metrics every two seconds.
    deadline = time.monotonic() + 10
    while counted(server, images, "not_an_image") < before[1] + 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert counted(server, images, "not_an_image") == before[1] + 2
    assert counted(server, images, "empty") == before[0]
    assert counted(server, images, "damaged") == cut[0] + 1
    assert counted(server, requests, "malformed_request") == cut[1] + 1
    assert "nv_inference_request_success" in get(server.metrics_url, "/metrics")[1]


def test_a_request_keeps_its_name_from_client_to_worker(guarded: Server, certificate: Tls, log: list[str]) -> None:
    body = json.dumps({"inputs": [{"name": "IMAGE", "datatype": "UINT8", "shape": [1, 3], "data": [1, 2, 3]}]})
    status, headers, _ = post(guarded, certificate, body.encode(), {"X-Request-Id": "from-the-header"})
    assert (status, headers["X-Request-Id"]) == (400, "from-the-header")
    access = Access(certificate.certificate, TOKEN)
    with Client(guarded.grpc_url, access=access) as client, pytest.raises(InvalidImage):
        client.segment(b"x")
    # The worker's lines come through a pipe: on a busy machine they arrive after the answer.
    deadline = time.monotonic() + 10
    while sum("not_an_image" in line for line in log) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    # The proxy's line and the worker's have the same id. Over gRPC there is no proxy, and the client makes the id.
    requests = [json.loads(line) for line in log if line.startswith('{"request"')]
    named = [line for line in requests if line["request"] == "from-the-header"]
    assert {line.get("protocol", "worker"): line["rejected"] for line in named} == {
        "worker": "not_an_image",
        "http": "",
    }
    assert [line for line in requests if len(line["request"]) == 32 and line["rejected"] == "not_an_image"]
    assert not [line for line in requests if line["request"] == "probe"]


def post(server: Server, certificate: Tls, body: bytes, headers: dict[str, str], token: str = TOKEN):  # type: ignore[no-untyped-def]
    """Send an inference over TLS and return the response's status, headers and JSON."""
    host, port = server.http_url.split(":")
    trust = ssl.create_default_context(cafile=certificate.certificate)
    connection = http.client.HTTPSConnection(host, int(port), context=trust, timeout=10)
    connection.request(
        "POST", f"/v2/models/{PIPELINE_MODEL}/infer", body, headers | {"Authorization": f"Bearer {token}"}
    )
    response = connection.getresponse()
    return response.status, response.headers, json.loads(response.read())


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_token_and_tls(guarded: Server, certificate: Tls, make_image: MakeImage, protocol: Protocol) -> None:
    url = guarded.grpc_url if protocol == "grpc" else guarded.http_url
    with Client(url, protocol, access=Access(certificate.certificate, TOKEN)) as client:
        assert client.segment(make_image()).mask.shape == (51, 51)
    for refused in (Access(certificate.certificate, "wrong"), Access(certificate.certificate), Access(None, TOKEN)):
        with Client(url, protocol, connect_timeout=2, access=refused) as client, pytest.raises(ClientError) as error:
            client.segment(make_image())
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (bytes(100_001), {}, 413),
        (b"{}", {"Content-Encoding": "br"}, 415),
        (b"{}", {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(bytes(100_001)), {"Content-Encoding": "gzip"}, 413),
        (b"{}", {"Inference-Header-Content-Length": "9" * 9}, 400),
        (b"{}", {"Inference-Header-Content-Length": "-1"}, 400),
    ],
    ids=[
        "too large",
        "unknown encoding",
        "not compressed",
        "too large when expanded",
        "header beyond the body",
        "negative header",
    ],
)
def test_what_the_proxy_refuses(
    guarded: Server, certificate: Tls, body: bytes, headers: dict[str, str], status: int
) -> None:
    answered, _, document = post(guarded, certificate, body, headers)
    assert answered == status
    assert len(document["error"].splitlines()) == 1
    # The token comes first: a stranger learns nothing from other refusals.
    assert post(guarded, certificate, body, headers, token="wrong")[0] == 401


def test_the_limit_on_bytes_holds_over_grpc_too(guarded: Server, certificate: Tls) -> None:
    with Client(guarded.grpc_url, access=Access(certificate.certificate, TOKEN)) as client:
        # At the limit the bytes reach the decoder, which refuses them for what they are.
        for size, reason in (
            (100_000, "not an image"),
            (100_001, "more than the limit of 100,000"),
        ):
            with pytest.raises(InvalidImage, match=reason):
                client.segment(bytes(size))


def test_a_slow_client_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.server.proxy.handlers.BODY_SECONDS", 0.3)
    host, port = server.http_url.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        # One byte of the 99 that are announced.
        connection.sendall(
            f"POST /v2/models/{PIPELINE_MODEL}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nx".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


def of_passphrase(tls: Tls, folder: Path) -> Tls:
    """Return the same certificate with its key under a passphrase."""
    key = folder / "secret.pem"
    command = ["openssl", "pkey", "-in", str(tls.key), "-out", str(key), "-aes256", "-passout", "pass:secret"]
    subprocess.run(command, check=True)
    return Tls(tls.certificate, key)


CA = """[ca]
default_ca = own
[own]
database = {folder}/index
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = names
[names]
commonName = supplied
"""


def of_dates(tls: Tls, folder: Path, first: str, last: str) -> Tls:
    """Return a certificate of the same key that is valid from `first` to `last`."""
    config, request, dated = folder / "ca.conf", folder / "request.pem", folder / "dated.pem"
    config.write_text(CA.format(folder=folder))
    (folder / "index").touch()
    key = ["-key", str(tls.key), "-subj", "/CN=localhost", "-out", str(request)]
    subprocess.run(["openssl", "req", "-new", *key], check=True, capture_output=True)
    files = ["-config", str(config), "-keyfile", str(tls.key), "-in", str(request), "-out", str(dated), "-notext"]
    sign = ["openssl", "ca", "-batch", "-selfsign", *files, "-startdate", first, "-enddate", last]
    subprocess.run(sign, check=True, capture_output=True)
    return Tls(dated, tls.key)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        # The key stands for a file that is PEM and holds no certificate.
        (lambda tls, folder: Tls(tls.key, tls.key), "are no certificate with its key"),
        (lambda tls, folder: Tls(tls.certificate, folder / "none.pem"), "cannot be read: No such file"),
        (of_passphrase, "has a passphrase"),
        (lambda tls, folder: of_dates(tls, folder, "20200101000000Z", "20210101000000Z"), "has expired"),
        (lambda tls, folder: of_dates(tls, folder, "20900101000000Z", "20910101000000Z"), "is not valid yet"),
    ],
    ids=["no certificate", "no key", "passphrase", "expired", "of the future"],
)
def test_a_certificate_that_cannot_be_used(
    repository: Path, certificate: Tls, tmp_path: Path, spoil: Callable[[Tls, Path], Tls], says: str
) -> None:
    wrong = replace(FREE_PORTS, tls=spoil(certificate, tmp_path))
    with pytest.raises(ServerError, match=says) as error, Server(repository, wrong):
        pass
    assert "\n" not in str(error.value)


def test_a_certificate_in_its_dates_can_be_used(certificate: Tls, tmp_path: Path) -> None:
    """Hold the expired certificates above to be refused for their dates alone."""
    assert server_context(of_dates(certificate, tmp_path, "20200101000000Z", "20900101000000Z")) is not None
