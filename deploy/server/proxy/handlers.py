"""Answer HTTP clients: check each request, give it an id, and forward it to tritonserver's internal endpoint."""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from deploy.contract import LONGEST_ID
from deploy.errors import ServerError
from deploy.server.internal_endpoint import InternalEndpoint
from deploy.server.page import PATH, Page
from deploy.server.proxy.limits import BODY_SECONDS
from deploy.server.proxy.request import InferenceRequest, Rejection, Rejections, read_request

ID_HEADER, LENGTH_HEADER = "X-Request-Id", "Inference-Header-Content-Length"
# For the server to respond, and for its metrics.
RESPONSE_SECONDS, METRICS_SECONDS = 120.0, 2.0
MODEL = r"/v2/models/{model:[\w.-]+}{version:(/versions/\d+)?}"
# The server answers tensor data that it cannot parse with a status of 500, and begins its message like this.
UNPARSED = b'{"error":"Unable to parse'
HEALTH = ("/v2/health/live", "/v2/health/ready")
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
    max_bytes: the limit on one request.
    token: what every request except those for health and the page must carry. Empty asks for none.
    page: what a browser is given at the root, None for a server without one.
    log: takes one line of JSON for each request.
    rejections: counts what was refused.
    """

    internal: InternalEndpoint
    session: ClientSession
    ready: Callable[[], bool]
    max_bytes: int
    token: str
    page: Page | None
    log: Callable[[str], None]
    rejections: Rejections

    def application(self) -> web.Application:
        """Return the application with every path that clients may use.

        Any other path is not found.
        """
        app = web.Application(client_max_size=self.max_bytes, middlewares=[self.guard])
        app.router.add_get(HEALTH[0], self.live)
        app.router.add_get(HEALTH[1], self.ready_state)
        app.router.add_get(MODEL + "/ready", self.ready_state)
        app.router.add_post(MODEL + "/infer", self.infer)
        for path in ("/v2", MODEL, MODEL + "/config", MODEL + "/stats"):
            app.router.add_get(path, self.describe)
        if self.page:
            app.router.add_get(PATH, self.page.respond)
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
        response, reason = await self._respond(request, handler)
        if reason:
            self.rejections.add(reason)
        response.headers[ID_HEADER] = REQUEST_ID.get()
        # Health is requested every few seconds and would fill the log.
        if request.path not in HEALTH:
            self._log(request, response.status, reason, time.monotonic() - begin)
        return response

    async def live(self, _request: web.Request) -> web.Response:
        """Answer 200 as long as this process runs."""
        return web.Response()

    async def ready_state(self, _request: web.Request) -> web.Response:
        """Answer 200 where every model answered its last probe, which is an inference, else 503."""
        return web.Response(status=200 if self.ready() else 503)

    async def describe(self, request: web.Request) -> web.Response:
        """Answer with metadata, configuration or statistics, as the server gives them."""
        return await self._forward(request, b"", {})

    async def infer(self, request: web.Request) -> web.Response:
        """Check an inference's body and forward it under the id that the body or the header gives it."""
        if "Content-Encoding" in request.headers:
            raise Rejection(415, "compressed", "send the body without Content-Encoding: images are compressed already")
        # aiohttp has no limit on the time that a body may take, and a slow client would hold its connection open.
        try:
            body = await asyncio.wait_for(request.read(), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise Rejection(408, "too_slow", f"the body did not arrive within {BODY_SECONDS:g} s") from None
        # In a thread: parsing a JSON body of many megabytes would hold up every other request.
        checked: InferenceRequest = await asyncio.to_thread(read_request, body, request.headers.get(LENGTH_HEADER))
        REQUEST_ID.set(checked.id[:LONGEST_ID] or REQUEST_ID.get())
        named, length = checked.named(REQUEST_ID.get())
        return await self._forward(request, named, {LENGTH_HEADER: str(length)})

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer with the server's families of metrics, where it runs, and the proxy's own."""
        families = ""
        with suppress(ServerError, OSError):
            request = partial(self.internal.request, "GET", "/metrics", timeout=METRICS_SECONDS)
            families = (await asyncio.to_thread(request)).decode()
        return web.Response(text=families + self.rejections.text())

    async def _respond(self, request: web.Request, handler: Handler) -> tuple[web.StreamResponse, str]:
        """Return the response and, where the request was refused, the reason to count it by.

        A failure becomes one line of JSON: neither aiohttp's pages nor a traceback may reach a client.
        """
        try:
            self._authorise(request)
            return await handler(request), ""
        except Rejection as rejection:
            return error_response(rejection.status, rejection.message), rejection.reason
        except web.HTTPException as error:
            too_large = error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            limit = f": the limit is {self.max_bytes} bytes" if too_large else ""
            message = HTTPStatus(error.status).phrase.lower() + limit
            return error_response(error.status, message), REASONS.get(error.status, "bad_request")
        except (ClientError, asyncio.TimeoutError):
            return error_response(503, "the server is not available: it is being started or repaired"), ""
        except Exception as error:
            self.log(json.dumps({"request": REQUEST_ID.get(), "error": f"{type(error).__name__}: {error}"}))
            return error_response(500, "the server failed on this request; its log says why"), ""

    async def _forward(self, request: web.Request, body: bytes, headers: dict[str, str]) -> web.Response:
        # The session knows the socket. The name only fills a header.
        url = f"http://localhost{request.rel_url.path}"
        begin, timeout = time.monotonic(), ClientTimeout(total=RESPONSE_SECONDS)
        async with self.session.request(request.method, url, data=body, headers=headers, timeout=timeout) as response:
            content = await response.read()
            if response.status == HTTPStatus.INTERNAL_SERVER_ERROR and content.startswith(UNPARSED):
                raise Rejection(400, "malformed_request", json.loads(content)["error"])
            kept = {
                name: response.headers[name] for name in ("Content-Type", LENGTH_HEADER) if name in response.headers
            }
            # What is left of a client's time is the network's, and its own.
            kept["Server-Timing"] = f"server;dur={1000 * (time.monotonic() - begin):.1f}"
            return web.Response(status=response.status, body=content, headers=kept)

    def _authorise(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").encode()
        expected = f"Bearer {self.token}".encode()
        # In constant time: how long a comparison takes must not tell how much of a guess was right.
        if self.token and request.path not in (*HEALTH, PATH) and not hmac.compare_digest(given, expected):
            raise Rejection(401, "unauthorised", "send the server's token as Authorization: Bearer TOKEN")

    def _log(self, request: web.Request, status: int, reason: str, seconds: float) -> None:
        line = {"request": REQUEST_ID.get(), "protocol": "http", "path": request.path[:LONGEST_ID], "status": status}
        self.log(json.dumps({**line, "rejected": reason, "milliseconds": round(1000 * seconds, 1)}))


def error_response(status: int, message: str) -> web.Response:
    """Return an error in the form of the server's protocol."""
    return web.json_response({"error": message}, status=status)
