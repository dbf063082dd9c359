"""Keep the connections of clients to a number and to a time, so that idle ones cannot end the server."""

import asyncio
import json
import logging
import os
import resource
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from aiohttp import web

from deploy.server.options import listen
from deploy.server.proxy.request import FAULT

# For the first bytes of a connection to become a request, for the whole of a request's body, and between requests.
HEAD_SECONDS, BODY_SECONDS, IDLE_SECONDS = 10.0, 30.0, 75.0
# Far more than the server has answers for, and few enough to be counted each time.
MOST = 2048
# How long a refused connection stays for its client to read why.
LAST_WORDS_SECONDS = 0.2
# For responses that are still being written when the server has drained.
CLOSE_SECONDS = 1.0
# How many connections may wait for the event loop, and how many it takes at a time.
BACKLOG, AT_ONCE = 1024, 64

_MESSAGE = json.dumps({"error": "the server has as many connections as it can keep: try again later"}).encode()
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_MESSAGE), _MESSAGE)
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def most_files() -> int:
    """Return how many files this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft if soft != resource.RLIM_INFINITY else 2**20


def open_files() -> int:
    """Return how many files this process has open, all that it may where none is left to find out."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (at each connection, and names are enough)
    except OSError:
        return most_files()


def most_connections() -> int:
    """Return how many connections gRPC, or the way from the proxy to tritonserver, may have.

    It is a quarter of this process' files. HTTP and metrics share half, and a quarter stays for the supervisor.
    """
    return min(most_files() // 4, MOST)


class Connections:
    """Listen on one port for an aiohttp application.

    Beyond what the process can keep, a connection is told 503 (with TLS: closed). One that has sent no whole request
    after HEAD_SECONDS is closed. So is one that is idle for IDLE_SECONDS, or reads nothing for BODY_SECONDS.
    """

    def __init__(self, app: web.Application, *, refused: Callable[[], None], logger: logging.Logger) -> None:
        """Prepare the application.

        Args:
            app: what answers. It gets one more middleware.
            refused: called for each connection that is turned away.
            logger: takes aiohttp's own messages.
        """
        self._refused, self._tls = refused, False
        # Of this process, whose other files are none of ours.
        before = open_files()
        self._most_files = before + min((most_files() - before) // 2, MOST)
        app.middlewares.insert(0, self._note)
        self._logger = logger
        self._runner = web.AppRunner(
            app,
            shutdown_timeout=CLOSE_SECONDS,
            # A request whose client has gone leaves the queue.
            handler_cancellation=True,
        )
        # The connections that have sent a request, and since when the others have been there.
        self._begun: set[web.RequestHandler] = set()
        self._silent: dict[web.RequestHandler, float] = {}

    async def listen(self, address: str, port: int, tls: ssl.SSLContext | None, closing: AsyncExitStack) -> None:
        """Start to listen, and leave in `closing` what ends it.

        Raises OSError where the port is taken.
        """
        self._tls = tls is not None
        closing.push_async_callback(self._runner.cleanup)
        await self._runner.setup()
        listening = listen(address, port)
        # Its connections inherit it: the kernel closes one whose client takes no bytes for so long.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * BODY_SECONDS))
        server = await asyncio.get_running_loop().create_server(
            self._accept,
            sock=listening,
            ssl=tls,
            ssl_handshake_timeout=HEAD_SECONDS if tls else None,
            # asyncio takes as many at a time before `_accept` can refuse one.
            backlog=AT_ONCE,
        )
        listening.listen(BACKLOG)
        closing.callback(server.close)
        watch = asyncio.create_task(self._watch())
        closing.callback(watch.cancel)

    def _accept(self) -> asyncio.Protocol:
        """Return what handles a new connection."""
        if open_files() < self._most_files:
            loop = asyncio.get_running_loop()
            # In place of aiohttp's own, which the runner knows no way to replace.
            return _Connection(
                self._server,
                loop=loop,
                keepalive_timeout=IDLE_SECONDS,
                logger=self._logger,
                access_log=None,  # type: ignore[arg-type]
            )
        self._refused()
        if self._tls:
            # A handshake only to say no would keep the connection for as long as its client likes. asyncio closes it.
            raise ConnectionRefusedError
        # In a flood there is no room for those who read their refusal, beside the connections of gRPC.
        flooded = open_files() > self._most_files + most_connections() + AT_ONCE
        return _Refusal(0.0 if flooded else LAST_WORDS_SECONDS)

    @property
    def _server(self) -> web.Server:
        server = self._runner.server
        assert server is not None
        return server

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._begun.add(request.protocol)
        return await handler(request)

    async def _watch(self) -> None:
        """Close the connections that have not become a request in time, for which aiohttp has no limit."""
        while True:
            await asyncio.sleep(1.0)
            now, present = time.monotonic(), self._server.connections
            self._begun.intersection_update(present)
            self._silent = {one: self._silent.get(one, now) for one in present if one not in self._begun}
            for connection in [one for one, since in self._silent.items() if now - since > HEAD_SECONDS]:
                connection.force_close()


class _Connection(web.RequestHandler):
    """Answer bytes that are no HTTP in the form of the server's protocol, in one line of JSON."""

    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Log an error, and return what its client is told."""
        super().handle_error(request, status, exc, message)
        # What follows the colon is the place in the bytes, on lines of its own.
        reason = f"this is no HTTP request: {(message or '').partition(':')[0].lower()}"
        response = web.json_response({"error": FAULT if status >= 500 else reason}, status=status)
        response.force_close()
        return response


class _Refusal(asyncio.Protocol):
    """Say that there is no room, and close the connection some seconds later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer before anything was asked."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(_REFUSAL)
        # Closed at once, with bytes of the client unread, the connection would be reset and the answer lost.
        asyncio.get_running_loop().call_later(self._seconds, transport.close)
