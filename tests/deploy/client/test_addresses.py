"""Test what the command makes of addresses, proxies and tokens, against the real server where one is needed."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.client import AccessDenied, AsyncClient, Client
from deploy.client.__main__ import main
from deploy.client.address import Address, proxy_before, read_address
from deploy.client.errors import from_status
from deploy.server import Server


@pytest.mark.parametrize(
    ("text", "protocol", "expected"),
    [
        ("host:80", "http", ("host", 80, False)),
        ("host", "grpc", ("host", 8001, False)),
        ("HTTP://host:80/", "http", ("host", 80, False)),
        ("https://host", "http", ("host", 8000, True)),
        ("grpcs://10.0.0.1:65535", "grpc", ("10.0.0.1", 65535, True)),
        ("[::1]:8001", "grpc", ("::1", 8001, False)),
        ("http://[fe80::1%eth0]", "http", ("fe80::1%eth0", 8000, False)),
    ],
)
def test_addresses_as_people_write_them(text: str, protocol: Any, expected: tuple[str, int, bool]) -> None:
    assert read_address(text, protocol) == Address(*expected)


@pytest.mark.parametrize(
    ("text", "protocol", "message"),
    [
        ("http://host:8000", "grpc", "--protocol http"),
        ("grpc://host", "http", "--protocol grpc"),
        ("ftp://host", "http", "use http or https"),
        ("host:0", "grpc", "1 to 65535"),
        ("host:70000", "http", "1 to 65535"),
        ("host:port", "http", "expected HOST:PORT"),
        ("::1", "grpc", r"\[IPv6\]:PORT"),
        ("[host]:80", "grpc", "no IPv6 address"),
        ("host:80/v2", "http", "expected HOST:PORT"),
        ("", "http", "expected HOST:PORT"),
    ],
)
def test_what_is_no_address_is_a_misuse(
    text: str, protocol: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=message):
        Client(text, protocol)
    with pytest.raises(SystemExit) as ended:
        main(["a.png", "--output", "out", "--protocol", protocol, "--url", text])
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_proxies_of_the_environment_stand_before_other_machines_alone() -> None:
    proxies = {"http_proxy": "http://user:secret@proxy:3128", "no_proxy": "inside.org, .local"}
    found = {
        host: proxy_before(read_address(host, "grpc"), "grpc", proxies)
        for host in ("localhost", "127.0.0.2", "[::1]", "far.org", "a.inside.org", "b.local")
    }
    assert found == {**dict.fromkeys(found, ""), "far.org": "http://proxy:3128"}
    assert not proxy_before(read_address("far.org", "http"), "http", proxies)


def test_localhost_is_not_reached_through_a_proxy(
    server: Server, make_image: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Port 9 (discard) is not listened on: a request that goes there fails.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    for protocol, url in (("grpc", server.grpc_url), ("http", server.http_url)):
        with Client(url, protocol) as client:  # type: ignore[arg-type]
            assert client.segment(make_image()).mask.size


@contextmanager
def over_ipv6(url: str) -> Iterator[str]:
    """Carry connections from a port of the IPv6 loopback to a server's."""
    host, _, port = url.rpartition(":")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:

        def carry(source: socket.socket, target: socket.socket) -> None:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

        def accept() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                far = socket.create_connection((host, int(port)))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"[::1]:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_ipv6(server: Server, make_image: Callable[..., bytes], protocol: Any) -> None:
    with (
        over_ipv6(server.grpc_url if protocol == "grpc" else server.http_url) as url,
        Client(f"{protocol}://{url}", protocol) as client,
    ):
        assert client.segment(make_image()).mask.size


def test_tokens_are_said_to_be_asked_for_or_refused() -> None:
    for status in ("StatusCode.UNAUTHENTICATED", "401"):
        for with_token, message in ((True, "the server at a:1 refuses this token"), (False, "asks for a token")):
            error = from_status(status, "send\nthe token", "a:1", with_token=with_token)
            assert isinstance(error, AccessDenied)
            assert str(error).endswith(message)


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe"])
def test_a_file_without_a_token_is_one_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token").write_bytes(content)
    arguments = ["a.png", "--output", str(tmp_path / "out"), "--token-file", str(tmp_path / "token")]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "must hold one token" in line


def test_asyncio_client_takes_the_same_addresses() -> None:
    with pytest.raises(ValueError, match="--protocol http"):
        AsyncClient("http://localhost:8000")
