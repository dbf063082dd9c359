"""Test how the proxy gives its page out: whole, small, to itself, and without what a token protects."""

import asyncio
import gzip
import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request

from data_pipeline.overlay import PALETTE
from deploy.contract import PIPELINE_MODEL
from deploy.serve import parse_arguments, server_options
from deploy.server.internal_endpoint import InternalEndpoint
from deploy.server.options import FREE_PORTS, ServerOptions
from deploy.server.page import FOLDER, Page, hash_source, in_order
from deploy.server.proxy import Proxy
from deploy.server.proxy.admission import Admission

LARGEST = 60_000


def test_the_page_is_the_same_whatever_the_encoding_of_the_machine() -> None:
    code = "import hashlib; from deploy.server.page import Page; print(hashlib.sha256(Page()._body).hexdigest())"
    # Python would take UTF-8 for a machine that says nothing.
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    told = [
        subprocess.run([sys.executable, "-c", code], env=os.environ | extra, capture_output=True, text=True, check=True)
        for extra in (ascii_only, {"PYTHONUTF8": "1"})
    ]
    assert len({one.stdout for one in told}) == 1


@contextmanager
def proxied(options: ServerOptions) -> Iterator[str]:
    """Run the proxy alone, with nothing behind it, and yield host:port of its HTTP side."""
    options = options.with_ports()
    nowhere = InternalEndpoint(Path("/nowhere"))
    admission = Admission({}, options.max_request_bytes)
    proxy = Proxy(
        options,
        nowhere,
        admission=admission,
        ready=lambda: False,
        hash_of=lambda model, version: "",
        log=lambda line: None,
    )
    proxy.start()
    try:
        yield f"127.0.0.1:{options.http_port}"
    finally:
        proxy.stop()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run a proxy without a token."""
    with proxied(FREE_PORTS) as running:
        yield running


def get(url: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Return the status, headers and body of a GET request."""
    with closing(http.client.HTTPConnection(url, timeout=10)) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def test_the_page_is_one_small_answer(url: str) -> None:
    status, headers, plain = get(url, "/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    _, headers, packed = get(url, "/", **{"Accept-Encoding": "gzip, br"})
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == plain
    assert len(packed) < LARGEST
    # What a page loads by itself.
    assert re.findall(rb'\s(?:src|href)="(?!#|data:)[^"]*"|@import|url\(', plain) == []


def test_only_its_own_code_runs_and_nobody_frames_it(url: str) -> None:
    _, headers, body = get(url, "/")
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    (style,), (script,) = (
        re.findall(rf"<{tag}>(.*?)</{tag.split()[0]}>", body.decode(), re.DOTALL)
        for tag in ("style", 'script type="module"')
    )
    assert policy["default-src"] == "'none'"
    assert (policy["style-src"], policy["script-src"]) == (hash_source(style), hash_source(script))
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert not re.search(r"\son\w+=|\sstyle=", body.decode().split("<script")[0]), "the policy would refuse it"


def test_every_module_is_in_it_once() -> None:
    names = list(in_order())
    assert sorted(names) == sorted(file.stem for file in FOLDER.glob("*.js"))
    assert names[-1] == "main"


def test_the_page_shares_the_palette_of_the_overlays(url: str) -> None:
    body = get(url, "/")[2].decode()
    settings = json.loads(body.partition('<script id="settings" type="application/json">')[2].partition("</script>")[0])
    assert settings["palette"] == [list(colour) for colour in PALETTE]
    assert settings["model"] == PIPELINE_MODEL


def test_a_token_protects_all_but_the_page_and_health() -> None:
    with proxied(replace(FREE_PORTS, token="open-sesame")) as url:
        asked = ("/", "/v2/health/live", f"/v2/models/{PIPELINE_MODEL}/config", "/v2", "/other")
        assert [get(url, path)[0] for path in asked] == [200, 200, 401, 401, 401]


def test_no_page_is_an_option() -> None:
    assert server_options(parse_arguments([])).page
    with proxied(replace(FREE_PORTS, page=server_options(parse_arguments(["--no-page"])).page)) as url:
        assert get(url, "/")[0] == 404


@pytest.mark.parametrize("accepted", ["", "br", "identity"])
def test_who_takes_no_gzip_is_given_none(accepted: str) -> None:
    request = make_mocked_request("GET", "/", headers={"Accept-Encoding": accepted})
    response = asyncio.run(Page().respond(request))
    assert "Content-Encoding" not in response.headers
