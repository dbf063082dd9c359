"""Answer HTTP clients: check each request, give it an id, and forward it to tritonserver's internal endpoint."""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from deploy.contract import LONGEST_ID
from deploy.errors import ServerError
from deploy.server.internal_endpoint import InternalEndpoint
from deploy.server.page import PATH, Page
from deploy.server.proxy.admission import Admission, Room
from deploy.server.proxy.extensions import open_json
from deploy.server.proxy.identity import HashOf, identified_json
from deploy.server.proxy.limits import BODY_SECONDS
from deploy.server.proxy.metrics import gauge
from deploy.server.proxy.request import (
    FAULT,
    LOST,
    RESPONSE_SECONDS,
    RETRY_SECONDS,
    TRACE_HEADER,
    UNAVAILABLE,
    Rejection,
    Rejections,
    Waiting,
    check_json_length,
    read_index,
    read_named,
    trace_of,
)

ID_HEADER, LENGTH_HEADER = "X-Request-Id", "Inference-Header-Content-Length"
METRICS_SECONDS = 2.0
MODEL = r"/v2/models/{model:[\w.-]+}{version:(/versions/\d+)?}"
# What others may do over gRPC or to tritonserver itself, and clients may not.
CLOSED = r"/v2/{closed:repository/models/.+|(system|cuda)sharedmemory.*|trace/.*|logging|models/.+/trace/.*}"
# Of the length of a body's JSON part: below 10 kB, reading takes less time than handing it to another thread.
QUICK_DIGITS = 4
ENCODINGS = ("gzip", "deflate", "identity")
# In the log, of a request whose client did not wait for the answer: nginx's number for it.
GONE = 499
# The server answers what it cannot read of a request with a status of 500, and begins its message like this.
UNREAD = tuple(
    b'{"error":"' + text
    for text in (
        b"Unable to parse",
        b"Unable to set",
        b"failed to parse the request JSON",
        b"failed to get request params",
    )
)
DESCRIPTION = "/v2"
HEALTH = ("/v2/health/live", "/v2/health/ready")
# What browsers say of a request that a page of this very server, or a person, has made.
OWN_SITE = ("same-origin", "none")
REASONS = {404: "unknown_path", 405: "wrong_method", 413: "too_large"}

# Of the request that the current task serves: the body of an inference may change it after `guard` has set it.
REQUEST_ID: ContextVar[str] = ContextVar("request_id")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, kw_only=True)
class Handlers:
    """Handle the requests of clients.

    internal: where requests are forwarded to.
    session: sends them there.
    ready: returns whether every model answers.
    hash_of: returns the hash of a model's version.
    max_bytes: the limit on one request.
    token: what every request except those for health and the page must carry. Empty asks for none.
    page: what a browser is given at the root, None for a server without one.
    log: takes one line of JSON for each request.
    rejections: counts what was refused.
    admission: decides when an inference is forwarded.
    arriving: counts the bytes of bodies that have not arrived whole.
    """

    internal: InternalEndpoint
    session: ClientSession
    ready: Callable[[], bool]
    hash_of: HashOf
    max_bytes: int
    token: str
    page: Page | None
    log: Callable[[str], None]
    rejections: Rejections
    admission: Admission
    arriving: Room
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def application(self) -> web.Application:
        """Return the application with every path that clients may use.

        Any other path is not found.
        """
        app = web.Application(client_max_size=self.max_bytes, middlewares=[self.guard])
        get = partial(app.router.add_get, expect_handler=_later)
        post = partial(app.router.add_post, expect_handler=_later)
        get(HEALTH[0], self.live)
        get(HEALTH[1], self.server_ready)
        get(MODEL + "/ready", self.model_ready)
        post(MODEL + "/infer", self.infer)
        for path in (DESCRIPTION, MODEL, MODEL + "/config", MODEL + "/stats"):
            get(path, self.describe)
        if self.page:
            get(PATH, self.page.respond)
        post("/v2/repository/index", self.index)
        app.router.add_route("*", CLOSED, self.closed, expect_handler=_later)
        return app

    def metrics_application(self) -> web.Application:
        """Return the application of the metrics' port."""
        app = web.Application()
        app.router.add_get("/metrics", self.metrics)
        return app

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give the request an id, answer it, and count and log the outcome."""
        begin, given = time.monotonic(), request.headers.get(ID_HEADER, "")
        # The id goes into the log and into a response header, so it must be short and free of control characters.
        REQUEST_ID.set(given if given.isprintable() and 0 < len(given) <= LONGEST_ID else uuid.uuid4().hex)
        response, reason = await self._respond(request, handler, begin)
        if reason:
            self.rejections.add(reason)
        response.headers[ID_HEADER] = REQUEST_ID.get()
        # Health is requested every few seconds and would fill the log.
        if request.path not in HEALTH:
            self._log(request, response.status, reason, time.monotonic() - begin)
        return response

    async def live(self, _request: web.Request) -> web.Response:
        """Answer 200 as long as this process runs."""
        return web.json_response({"live": True})

    async def server_ready(self, _request: web.Request) -> web.Response:
        """Answer 200 where every model answered its last probe, which is an inference, else 503."""
        ready = self.ready()
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def model_ready(self, request: web.Request) -> web.Response:
        """Answer 200 for a model and version that is served, 404 for another, 503 where the server is not ready."""
        status = 503
        if self.ready():
            status = 200 if (await self._forward(request, b"", {})).status == HTTPStatus.OK else 404
        return web.json_response({"name": request.match_info["model"], "ready": status == HTTPStatus.OK}, status=status)

    async def describe(self, request: web.Request) -> web.Response:
        """Answer with metadata, configuration or statistics, as the server gives them."""
        # tritonserver would parse whatever a client sends along.
        return await self._forward(request, b"", {})

    async def index(self, request: web.Request) -> web.Response:
        """Answer with the list of models, as the server gives it."""
        return await self._forward(request, read_index(await self._body(request)), {})

    async def closed(self, _request: web.Request) -> web.Response:
        """Refuse what would let a client load code, map memory or write files."""
        raise Rejection(403, "closed", "this call is closed to clients")

    async def infer(self, request: web.Request) -> web.Response:
        """Check an inference's body and forward it, in its turn, under the id that the body or the header gives it."""
        waiting = await self._read(await self._body(request), request.headers.get(LENGTH_HEADER))
        REQUEST_ID.set(waiting.id[:LONGEST_ID] or REQUEST_ID.get())
        model = request.match_info["model"]

        async def forward() -> web.Response:
            response = await self._forward(request, waiting.body, {LENGTH_HEADER: str(waiting.json_length)})
            if response.status == HTTPStatus.OK:
                self.admission.answered(model, waiting.content)
            elif LOST in (response.text or ""):
                self.admission.lost(model, waiting.content)
            return response

        return await self.admission.run(model, waiting.content, waiting.seconds, forward)

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer with the server's families of metrics, where it runs, and the proxy's own."""
        families = ""
        with suppress(ServerError, OSError):
            request = partial(self.internal.request, "GET", "/metrics", timeout=METRICS_SECONDS)
            families = (await asyncio.to_thread(request)).decode()
        ready = gauge("ready", "Whether every model answers", int(self.ready()))
        own = f"{ready}{self.admission.text()}{self.rejections.text()}"
        return web.Response(text=families + own)

    async def _body(self, request: web.Request) -> bytes:
        """Return the whole of a request's body, expanded where it is compressed."""
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding not in ENCODINGS:
            raise Rejection(415, "unknown_encoding", "a body may have the Content-Encoding gzip or deflate, or none")
        # Before anything of it is taken.
        length = request.content_length or 0
        if length > self.max_bytes:
            raise web.HTTPRequestEntityTooLarge(self.max_bytes, length)
        if LENGTH_HEADER not in request.headers:
            check_json_length(length)
        await _invite(request)
        # aiohttp has no limit on the time that a body may take, and a slow client would hold its connection open.
        try:
            return await asyncio.wait_for(self._arrive(request), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise Rejection(408, "too_slow", f"the body did not arrive within {BODY_SECONDS:g} s") from None
        except web.RequestPayloadError:
            raise Rejection(400, "malformed_http", f"the body is not what its encoding ({encoding}) says") from None

    async def _arrive(self, request: web.Request) -> bytes:
        """Return a body once it is whole, and count its bytes meanwhile."""
        body = bytearray()
        try:
            async for part in request.content.iter_any():
                if len(body) + len(part) > self.max_bytes:
                    raise web.HTTPRequestEntityTooLarge(self.max_bytes, len(body) + len(part))
                self.arriving.take(len(part))
                body += part
            return bytes(body)
        finally:
            self.arriving.give_back(len(body))
            # At once: the traceback of a client that has gone would keep it until the garbage is collected.
            body.clear()

    async def _read(self, body: bytes, json_length: str | None) -> Waiting:
        read = partial(read_named, body, json_length, REQUEST_ID.get())
        if json_length is not None and len(json_length) <= QUICK_DIGITS:
            return read()
        # In a thread, and one at a time: parsing a JSON body of many megabytes holds up every other thread.
        async with self.reading:
            return await asyncio.to_thread(read)

    async def _respond(self, request: web.Request, handler: Handler, begin: float) -> tuple[web.StreamResponse, str]:
        """Return the response and, where the request was refused, the reason to count it by.

        A failure becomes one line of JSON: neither aiohttp's pages nor a traceback may reach a client.
        """
        try:
            _refuse_other_sites(request)
            self._authorise(request)
            return await handler(request), ""
        except Rejection as rejection:
            return error_response(rejection.status, rejection.message), rejection.reason
        except asyncio.CancelledError:
            self.rejections.add("client_gone")
            self._log(request, GONE, "client_gone", time.monotonic() - begin)
            raise
        except web.HTTPException as error:
            too_large = error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            limit = f": the limit is {self.max_bytes} bytes" if too_large else ""
            message = HTTPStatus(error.status).phrase.lower() + limit
            return error_response(error.status, message), REASONS.get(error.status, "bad_request")
        except ConnectionResetError:
            # During its body. Nobody reads this.
            return error_response(GONE, "the client has gone"), "client_gone"
        except (ClientError, asyncio.TimeoutError):
            return error_response(503, UNAVAILABLE), ""
        except Exception as error:
            self.log(json.dumps({"request": REQUEST_ID.get(), "error": f"{type(error).__name__}: {error}"}))
            return error_response(500, FAULT), ""

    async def _forward(self, request: web.Request, body: bytes, headers: dict[str, str]) -> web.Response:
        # The session knows the socket. The name only fills a header.
        url = f"http://localhost{request.rel_url.path}"
        begin, timeout = time.monotonic(), ClientTimeout(total=RESPONSE_SECONDS)
        # tritonserver knows no HEAD. aiohttp leaves the body of the answer out.
        method = "GET" if request.method == "HEAD" else request.method
        async with self.session.request(method, url, data=body, headers=headers, timeout=timeout) as response:
            content = await response.read()
            if response.status == HTTPStatus.INTERNAL_SERVER_ERROR and content.startswith(UNREAD):
                raise Rejection(400, "malformed_request", json.loads(content)["error"])
            kept = {
                name: response.headers[name] for name in ("Content-Type", LENGTH_HEADER) if name in response.headers
            }
            # What is left of a client's time is the network's, and its own.
            kept["Server-Timing"] = f"server;dur={1000 * (time.monotonic() - begin):.1f}"
            if request.path.endswith("/infer") and response.status == HTTPStatus.OK:
                length = int(kept.get(LENGTH_HEADER, len(content)))
                content, length = identified_json(content, length, self.hash_of)
                kept |= {LENGTH_HEADER: str(length)} if LENGTH_HEADER in kept else {}
            elif request.path == DESCRIPTION and response.status == HTTPStatus.OK:
                content = open_json(content)
            return web.Response(status=response.status, body=content, headers=kept)

    def _authorise(self, request: web.Request) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        # In constant time: how long a comparison takes must not tell how much of a guess was right.
        # What is no UTF-8 in a header reaches Python as surrogates.
        guess = given.strip().encode(errors="surrogateescape")
        right = scheme.lower() == "bearer" and hmac.compare_digest(guess, self.token.encode())
        if self.token and request.path not in (*HEALTH, PATH) and not right:
            raise Rejection(401, "unauthorised", "send the server's token as Authorization: Bearer TOKEN")

    def _log(self, request: web.Request, status: int, reason: str, seconds: float) -> None:
        line = {"request": REQUEST_ID.get(), "protocol": "http", "path": request.path[:LONGEST_ID], "status": status}
        taken = {"rejected": reason, "milliseconds": round(1000 * seconds, 1)}
        self.log(json.dumps({**line, **taken, **trace_of(request.headers.get(TRACE_HEADER, ""))}))


async def _later(_request: web.Request) -> None:
    """Leave a client that asks whether to send its body (Expect: 100-continue) waiting, until its headers are checked.

    Where they are wrong it is answered without having sent it.
    """


async def _invite(request: web.Request) -> None:
    """Tell a client that waits for it to send its body."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The response has not begun.
        request.writer.output_size = 0


def _refuse_other_sites(request: web.Request) -> None:
    """Refuse what a web page of anybody else has a browser send here, which says so to hosts that it trusts."""
    # Such a page could not read the answer, but have the server work.
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site", OWN_SITE[0]) not in OWN_SITE:
        raise Rejection(403, "other_site", "pages of other sites may not ask this server")


def error_response(status: int, message: str) -> web.Response:
    """Return an error in the form of the server's protocol, with what to do about it where HTTP has a header for it."""
    hints = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": str(RETRY_SECONDS)}}
    return web.json_response({"error": message}, status=status, headers=hints.get(status))
