"""Hold more connections open than the server's process may have, and others for longer than they may last."""

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from deploy.client import Client
from deploy.contract import PIPELINE_MODEL
from deploy.server import Server
from deploy.server.options import FREE_PORTS
from deploy.server.process.workers import children_of
from deploy.server.proxy.admission import WAITING_BODIES
from deploy.server.proxy.grpc_proxy import SERVICE
from tests.helpers.serving import served

MakeImage = Callable[..., bytes]
FILES, CONNECTIONS = 1024, 1050
LIMITED = ["sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh"]


def connect(url: str) -> socket.socket:
    host, port = url.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def text(url: str, path: str) -> tuple[int, str]:
    """Return the status and body of a GET request."""
    host, port = url.split(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=20)) as client:
        client.request("GET", path)
        response = client.getresponse()
        return response.status, response.read().decode()


def test_more_idle_connections_than_files_end_nothing(repository: Path, make_image: MakeImage) -> None:
    with served(repository, before=LIMITED) as server:
        workers = children_of(server.tritonserver)
        urls = (server.http, server.grpc, server.metrics)
        idle = [connect(url) for url in urls for _ in range(CONNECTIONS)]
        assert text(server.http, "/v2/health/ready")[0] in (200, 503), "a new client is served or told why not"
        # Nobody has closed anything here: the server gives up those that have said nothing.
        for protocol, url in (("grpc", server.grpc), ("http", server.http)):
            with Client(url, protocol, retry_for=60) as client:  # type: ignore[arg-type]
                assert client.segment(make_image()).mask.shape == (51, 51)
        assert server.process.poll() is None
        refused = text(server.metrics, "/metrics")[1].partition('{reason="too_many_connections"} ')[2].split()[0]
        assert int(refused) > CONNECTIONS, "of HTTP and metrics together, most"
        assert children_of(server.tritonserver) == workers, "no healthy worker may be replaced for want of files"
        for connection in idle:
            connection.close()


@pytest.fixture(scope="module")
def hasty(repository: Path) -> Iterator[Server]:
    """Run a server whose limits on time are short enough for a test to wait for."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("limits", "grpc_proxy"):
            for name in ("HEAD_SECONDS", "BODY_SECONDS", "IDLE_SECONDS"):
                patch.setattr(f"deploy.server.proxy.{module}.{name}", 1.0)
        with Server(repository, FREE_PORTS) as server:
            yield server


def test_bodies_on_their_way_are_bounded_and_leave_with_their_clients(repository: Path, make_image: MakeImage) -> None:
    """Send all but the last byte of bodies, three times as many as have room, and go."""
    size = 2**20
    head = f"POST /v2/models/resformer/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode()
    with Server(repository, replace(FREE_PORTS, max_request_bytes=size)) as server:
        for _ in range(2):
            sent = [connect(server.http_url) for _ in range(3 * WAITING_BODIES)]
            for connection in sent:
                with suppress(ConnectionError):
                    connection.sendall(head + bytes(size - 1))
            refused = 0
            for connection in sent:
                connection.settimeout(1)
                with suppress(TimeoutError, ConnectionError):
                    refused += connection.recv(12) == b"HTTP/1.1 503"
            assert refused >= 2 * WAITING_BODIES
            for connection in sent:
                connection.close()
            with Client(server.http_url, "http", retry_for=20) as client:
                assert client.segment(make_image()).mask.shape == (51, 51)


@pytest.mark.parametrize("side", ["http", "grpc", "metrics"])
@pytest.mark.parametrize("sent", [b"", b"POST /v2 HTT"], ids=["silent", "half a head"])
def test_a_connection_without_a_request_is_closed(hasty: Server, side: str, sent: bytes) -> None:
    with connect(getattr(hasty, f"{side}_url")) as connection:
        connection.sendall(sent)
        # gRPC greets first. The end of what it says is the end of the connection.
        while connection.recv(4096):
            pass


def test_a_head_that_trickles_is_cut_off(hasty: Server) -> None:
    with connect(hasty.http_url) as connection, pytest.raises(OSError):
        for _ in range(1000):
            connection.sendall(b"x")
            time.sleep(0.05)


def test_an_idle_connection_is_closed(hasty: Server) -> None:
    host, port = hasty.http_url.split(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=10)) as client:
        client.request("GET", "/v2/health/live")
        client.getresponse().read()
        assert client.sock.recv(1) == b""
    states: list[grpc.ChannelConnectivity] = []
    with grpc.insecure_channel(hasty.grpc_url) as channel:
        channel.subscribe(states.append)
        assert channel.unary_unary(SERVICE + "ServerLive")(b"") == b"\x08\x01"
        deadline = time.monotonic() + 10
        while grpc.ChannelConnectivity.IDLE not in states[1:] and time.monotonic() < deadline:
            time.sleep(0.05)
    assert grpc.ChannelConnectivity.IDLE in states[1:]


def test_a_client_that_reads_nothing_is_given_up(hasty: Server) -> None:
    host, port = hasty.http_url.split(":")
    with socket.socket() as connection:
        # A window of a few bytes, which the first answers fill.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect((host, int(port)))
        ask = f"GET /v2/models/{PIPELINE_MODEL}/config HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        # Far more answers than the kernel keeps for it, so that the server has to wait.
        connection.setblocking(False)
        with suppress(BlockingIOError, ConnectionError):
            for _ in range(10_000):
                connection.sendall(ask)
                time.sleep(0.0001)
        ends = (int(port), connection.getsockname()[1])
        deadline = time.monotonic() + 20
        while ends in established() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ends not in established()


def established() -> set[tuple[int, int]]:
    """Return the two ports of each TCP connection that is open, this end first."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines()[1:]]
    # sl local_address rem_address st ..., in hexadecimal.
    ports = [tuple(int(address.rpartition(":")[2], 16) for address in row[1:3]) for row in rows if row[3] == "01"]
    return {(here, there) for here, there in ports}


def test_a_message_that_never_comes_is_given_up(hasty: Server) -> None:
    never = threading.Event()
    with grpc.insecure_channel(hasty.grpc_url) as channel:
        call = channel.stream_unary(SERVICE + "ModelInfer").future(iter(never.wait, None), timeout=30)
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "did not arrive within 1 s" in call.details()
        never.set()
