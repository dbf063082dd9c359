"""Take the reader of the server's log away, which must stop neither the start of a server nor an answer."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from deploy.client import Client, ClientError
from deploy.client.transport import Access
from deploy.contract import GRPC_TOKEN_HEADER, PIPELINE_MODEL
from deploy.server.log import WAITING, Log
from deploy.server.options import free_ports
from tests.helpers.serving import FREE, Served, served

TOKEN = "open-sesame"
MakeImage = Callable[..., bytes]
PIPE_BYTES = 65_536  # what Linux keeps of a pipe that nobody reads
MALFORMED = (
    b"no method\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET /%b HTTP/1.1\r\n\r\n" % (b"a" * 9000),
    b"POST /v2 HTTP/1.1\r\nContent-Length: many\r\n\r\n",
    b"POST /v2 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01",
)


def expect_answers(server: Served, make_image: MakeImage, count: int) -> None:
    """Expect `count` answers over each protocol, and readiness."""
    with Client(server.grpc) as over_grpc, Client(server.http, "http") as over_http:
        for _ in range(count):
            assert over_grpc.segment(make_image()).mask.shape == (51, 51)
            assert over_http.segment(make_image()).mask.shape == (51, 51)
    connection = http.client.HTTPConnection(server.http, timeout=10)
    connection.request("GET", "/v2/health/ready")
    assert connection.getresponse().status == 200


def test_a_reader_that_does_not_read_and_then_leaves(repository: Path, make_image: MakeImage) -> None:
    reading, writing = os.pipe()
    with served(repository, stderr=writing) as server:
        # Four lines of more than 100 bytes for each.
        expect_answers(server, make_image, 200)
        again = os.open(f"/proc/self/fd/{writing}", os.O_WRONLY | os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            os.write(again, bytes(PIPE_BYTES // 16))
        for end in (again, writing, reading):
            os.close(end)
        expect_answers(server, make_image, 20)


def test_a_full_disk(repository: Path, make_image: MakeImage) -> None:
    command = [sys.executable, "-m", "deploy.serve", "--repository", str(repository)]
    with Path("/dev/full").open("wb") as full:
        expect_service(command, make_image, stdout=full, stderr=full)


@pytest.mark.slow
def test_no_files_to_write_to(repository: Path, make_image: MakeImage) -> None:
    command = [sys.executable, "-m", "deploy.serve", "--repository", str(repository)]
    expect_service(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command], make_image)


def expect_service(command: list[str], make_image: MakeImage, **options: Any) -> None:
    """Expect an answer of a server that cannot say where it listens, and an orderly end."""
    port = free_ports("127.0.0.1", 1)[0]
    with subprocess.Popen([*command, *FREE, "--grpc-port", str(port)], **options) as process:
        with Client(f"127.0.0.1:{port}", retry_for=60) as client:
            assert client.segment(make_image()).mask.shape == (51, 51)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_what_was_dropped_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.server.log.FLUSH_SECONDS", 60.0)
    reading, writing = os.pipe()
    log, count = Log(writing), WAITING + PIPE_BYTES
    # More than the pipe and the queue hold, from a caller whom nobody holds up.
    for number in range(count):
        log.event(str(number))
    with os.fdopen(reading) as lines, ThreadPoolExecutor() as pool:
        read = pool.submit(lambda: [json.loads(line) for line in lines])
        log.close()
        os.close(writing)
    written = [int(line["message"]) for line in read.result() if line["where"] == "supervisor"]
    # More than one, where the caller was faster than the writer while the pipe had room.
    told = [line["message"] for line in read.result() if line["where"] == "log"]
    dropped = [int(message.removesuffix(" lines could not be written")) for message in told]
    assert written == sorted(written)
    assert dropped
    assert len(written) + sum(dropped) == count


def test_every_line_is_json_whatever_comes(repository: Path, tmp_path: Path) -> None:
    token, log = tmp_path / "token", tmp_path / "log"
    token.write_text(TOKEN)
    with log.open("wb") as file, served(repository, "--token-file", str(token), stderr=file) as server:
        for url in (server.http, server.metrics, server.grpc):
            for data in MALFORMED:
                answer = first_bytes(url, data)
                assert answer
                if url != server.grpc:
                    (reason,) = json.loads(answer.partition(b"\r\n\r\n")[2]).values()
                    assert re.fullmatch("this is no HTTP request: [^\n]+", reason)
        for guess in ("a guess", "probe"):
            with Client(server.grpc, access=Access(token=guess)) as client, pytest.raises(ClientError):
                client.segment(b"no image")
        hide(server.grpc)
        with urllib.request.urlopen(f"http://{server.metrics}/metrics") as response:
            metrics = response.read().decode()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for reason, count in (("malformed_http", 2 * len(MALFORMED)), ("unauthorised", 2)):
        assert [line.get("rejected") for line in lines].count(reason) == count
        assert f'{{reason="{reason}"}} {count}' in metrics
    named = {line["where"]: line["rejected"] for line in lines if line.get("request") == "probe"}
    assert named == {"worker": "not_an_image", "front": ""}


def first_bytes(url: str, data: bytes) -> bytes:
    """Send bytes and return what comes back first."""
    host, port = url.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(data)
        return connection.recv(4096)


def hide(url: str) -> None:
    """Send a request under the name that the supervisor's own once had, which the log left out."""
    image = grpc.InferInput("IMAGE", [1, 8], "UINT8")
    image.set_data_from_numpy(np.zeros((1, 8), np.uint8))
    with grpc.InferenceServerClient(url) as raw, pytest.raises(InferenceServerException, match="not an image"):
        raw.infer(PIPELINE_MODEL, [image], request_id="probe", headers={GRPC_TOKEN_HEADER: TOKEN})
