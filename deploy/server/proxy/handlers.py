"""What the front answers: it checks each HTTP request, names it, and hands it to tritonserver's private side."""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp import ClientError, ClientSession, ClientTimeout, web

from deploy.server.internal_endpoint import ADDRESS, PrivateSide
from deploy.server.proxy.rejections import Rejection, Rejections
from deploy.server.proxy.request import InferenceRequest, read_request

ID_HEADER, LENGTH_HEADER = "X-Request-Id", "Inference-Header-Content-Length"
LONGEST_ID = 128
# For the whole of a request's body to arrive, and for the server to answer.
BODY_SECONDS, ANSWER_SECONDS = 30.0, 120.0
MODEL = r"/v2/models/{model:[\w.-]+}{version:(/versions/\d+)?}"
# How the server begins its word on a tensor's data that are not what they should be, with a status of 500.
UNPARSED = b'{"error":"Unable to parse'
HEALTH = ("/v2/health/live", "/v2/health/ready")

REQUEST_ID: ContextVar[str] = ContextVar("request_id")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Gateway:
    """The handlers.

    ready: whether every model answers.  max_bytes: of one request.  token: asked for unless empty.
    log: takes one line of JSON a request.
    """

    private: PrivateSide
    session: ClientSession
    ready: Callable[[], bool]
    max_bytes: int
    token: str
    log: Callable[[str], None]
    rejections: Rejections = field(default_factory=Rejections)

    def application(self) -> web.Application:
        """Everything that clients may ask for; whatever else they try is not found."""
        app = web.Application(client_max_size=self.max_bytes, middlewares=[self.guard])
        app.router.add_get(HEALTH[0], self.live)
        app.router.add_get(HEALTH[1], self.ready_state)
        app.router.add_get(MODEL + "/ready", self.ready_state)
        app.router.add_post(MODEL + "/infer", self.infer)
        for path in ("/v2", MODEL, MODEL + "/config", MODEL + "/stats"):
            app.router.add_get(path, self.describe)
        return app

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Ask for the token, turn whatever is raised into one line of JSON, and log the request."""
        begin, given = time.monotonic(), request.headers.get(ID_HEADER, "")
        REQUEST_ID.set(given if given.isprintable() and 0 < len(given) <= LONGEST_ID else uuid.uuid4().hex)
        reason = ""
        try:
            self._authorise(request)
            response = await handler(request)
        except Rejection as rejection:
            reason = rejection.reason
            response = refusal(rejection.status, rejection.message)
        except web.HTTPException as error:
            reason = {404: "unknown_path", 405: "wrong_method", 413: "too_large"}.get(error.status, "bad_request")
            limit = (
                f": the limit is {self.max_bytes} bytes" if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else ""
            )
            response = refusal(error.status, HTTPStatus(error.status).phrase.lower() + limit)
        except (ClientError, asyncio.TimeoutError):
            response = refusal(503, "the server is not available: it is being started or repaired")
        except Exception as error:
            self.log(json.dumps({"request": REQUEST_ID.get(), "error": f"{type(error).__name__}: {error}"}))
            response = refusal(500, "the server failed on this request; its log says why")
        if reason:
            self.rejections.add(reason)
        response.headers[ID_HEADER] = REQUEST_ID.get()
        if request.path not in HEALTH:
            self._log(request, response.status, reason, time.monotonic() - begin)
        return response

    async def live(self, _request: web.Request) -> web.Response:
        """200 as long as there is someone to answer."""
        return web.Response()

    async def ready_state(self, _request: web.Request) -> web.Response:
        """200 where every model answered its last probe, which is an inference; else 503."""
        return web.Response(status=200 if self.ready() else 503)

    async def describe(self, request: web.Request) -> web.Response:
        """Metadata, configuration and statistics, as the server gives them."""
        return await self._forward(request, b"", {})

    async def infer(self, request: web.Request) -> web.Response:
        """An inference whose body was checked, under the id that the body or the header gives it."""
        if "Content-Encoding" in request.headers:
            raise Rejection(415, "compressed", "send the body without Content-Encoding: images are compressed already")
        try:
            body = await asyncio.wait_for(request.read(), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise Rejection(408, "too_slow", f"the body did not arrive within {BODY_SECONDS:g} s") from None
        checked: InferenceRequest = await asyncio.to_thread(read_request, body, request.headers.get(LENGTH_HEADER))
        REQUEST_ID.set(checked.id[:LONGEST_ID] or REQUEST_ID.get())
        named, length = checked.named(REQUEST_ID.get())
        return await self._forward(request, named, {LENGTH_HEADER: str(length)})

    async def _forward(self, request: web.Request, body: bytes, headers: dict[str, str]) -> web.Response:
        url = f"http://{ADDRESS}:{self.private.port}{request.rel_url.path}"
        timeout = ClientTimeout(total=ANSWER_SECONDS)
        async with self.session.request(
            request.method, url, data=body, headers=self.private.headers | headers, timeout=timeout
        ) as answer:
            content = await answer.read()
            if answer.status == HTTPStatus.INTERNAL_SERVER_ERROR and content.startswith(UNPARSED):
                raise Rejection(400, "malformed_request", json.loads(content)["error"])
            kept = {name: answer.headers[name] for name in ("Content-Type", LENGTH_HEADER) if name in answer.headers}
            return web.Response(status=answer.status, body=content, headers=kept)

    def _authorise(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").encode()
        expected = f"Bearer {self.token}".encode()
        if self.token and request.path not in HEALTH and not hmac.compare_digest(given, expected):
            raise Rejection(401, "unauthorised", "send the server's token as Authorization: Bearer TOKEN")

    def _log(self, request: web.Request, status: int, reason: str, seconds: float) -> None:
        line = {"request": REQUEST_ID.get(), "protocol": "http", "path": request.path[:LONGEST_ID], "status": status}
        self.log(json.dumps({**line, "rejected": reason, "milliseconds": round(1000 * seconds, 1)}))


def refusal(status: int, message: str) -> web.Response:
    """An error as the server's protocol words it."""
    return web.json_response({"error": message}, status=status)
