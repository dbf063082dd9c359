"""Listen for clients over HTTP and gRPC in one thread of this process, and serve all metrics at one address."""

import asyncio
import json
import logging
import ssl
import threading
import traceback
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiohttp import ClientSession, DummyCookieJar, UnixConnector, web
from aiohttp.http import HttpProcessingError

from deploy.errors import EXHAUSTED, ServerError
from deploy.server.internal_endpoint import InternalEndpoint
from deploy.server.options import ServerOptions
from deploy.server.page import Page
from deploy.server.proxy.admission import Admission, Room
from deploy.server.proxy.grpc_proxy import GrpcProxy
from deploy.server.proxy.handlers import Handlers
from deploy.server.proxy.identity import HashOf
from deploy.server.proxy.limits import CLOSE_SECONDS, Connections, most_connections
from deploy.server.proxy.request import Rejections
from deploy.server.proxy.tls import server_context

START_SECONDS = 10.0
# tritonserver does not end while a connection to its HTTP endpoint is open.
KEPT_SECONDS = 0.5


class Proxy:
    """Listen from `start` to `stop`, on the ports for HTTP, gRPC and metrics.

    An instance is started once.
    """

    def __init__(
        self,
        options: ServerOptions,
        internal: InternalEndpoint,
        *,
        admission: Admission,
        ready: Callable[[], bool],
        hash_of: HashOf,
        log: Callable[[str], None],
    ) -> None:
        """Prepare the proxy.

        Args:
            options: where to listen, and the limits, TLS and token for clients.
            internal: where requests are forwarded to.
            admission: decides when an inference is forwarded.
            ready: returns whether inferences would be answered.
            hash_of: returns the hash of a model's version.
            log: takes one line of JSON for each request.
        """
        self._options, self._internal = options, internal
        self._admission, self._ready, self._hash_of, self._log = admission, ready, hash_of, log
        self._rejections = Rejections()
        self._grpc = GrpcProxy(
            options,
            internal.grpc,
            ready=ready,
            hash_of=hash_of,
            log=log,
            rejections=self._rejections,
            admission=admission,
        )
        # An event loop in a thread: a program uses the server through plain blocking calls.
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(
            lambda _loop, context: self._report(context["message"], context.get("exception"))
        )
        self._logger = logging.Logger("proxy", logging.DEBUG)
        self._logger.addHandler(_Records(self._take))
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        # What `_close` gives back, in reverse order.
        self._resources = AsyncExitStack()

    def start(self) -> None:
        """Start to listen.

        Raises ServerError where a port is taken or the certificate cannot be used.
        """
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(START_SECONDS)
        except BaseException as error:
            self.stop()
            if isinstance(error, (OSError, ServerError)):
                raise ServerError(f"the proxy cannot start: {error}") from None
            raise

    def stop(self) -> None:
        """Finish the responses that are being written, then stop listening and end the thread."""
        # gRPC and each of the two sites may take CLOSE_SECONDS.
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(3 * CLOSE_SECONDS + 1)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _take(self, record: logging.LogRecord) -> None:
        """Count what aiohttp says of bytes that are no HTTP, and pass on what else it says."""
        error = record.exc_info[1] if record.exc_info else None
        # What a body was cut or encoded wrongly by is counted where it was read.
        if isinstance(error, web.RequestPayloadError):
            return
        if isinstance(error, HttpProcessingError):
            self._rejections.add("malformed_http")
            line = {"request": "", "protocol": "http", "path": "", "status": error.code, "rejected": "malformed_http"}
            self._log(json.dumps(line))
        elif record.levelno >= logging.WARNING:
            self._report(record.getMessage(), error)

    def _report(self, message: str, error: BaseException | None) -> None:
        """Log a fault of the proxy itself, which its clients are not told about."""
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            # It may come at each connection, and the place in the code says nothing.
            message, error = f"{message}: {error.strerror}", None
        trace = "".join(traceback.format_exception(error)) if error else ""
        self._log(json.dumps({"request": "", "error": message, "traceback": trace}))

    async def _listen(self) -> None:
        session = ClientSession(
            connector=UnixConnector(str(self._internal.http), limit=most_connections(), keepalive_timeout=KEPT_SECONDS),
            cookie_jar=DummyCookieJar(),
            # Given aiohttp's own header, the server would compress masks, at the cost of latency.
            skip_auto_headers=["Accept-Encoding"],
        )
        await self._resources.enter_async_context(session)
        options = self._options
        handlers = Handlers(
            internal=self._internal,
            session=session,
            ready=self._ready,
            hash_of=self._hash_of,
            max_bytes=options.max_request_bytes,
            token=options.token,
            page=Page() if options.page else None,
            log=self._log,
            rejections=self._rejections,
            admission=self._admission,
            arriving=Room(options.max_request_bytes),
        )
        await self._serve(handlers.application(), options.http_port, server_context(options.tls))
        await self._serve(handlers.metrics_application(), options.metrics_port, None)
        self._resources.push_async_callback(self._grpc.stop, CLOSE_SECONDS)
        await self._grpc.start()

    async def _close(self) -> None:
        await self._resources.aclose()
        # aiohttp may still wait for the rest of a refused body, and asyncio complains of a loop closed over a task.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, app: web.Application, port: int, tls: ssl.SSLContext | None) -> None:
        def refused() -> None:
            self._rejections.add("too_many_connections")

        connections = Connections(app, refused=refused, logger=self._logger)
        await connections.listen(self._options.address, port, tls, self._resources)


class _Records(logging.Handler):
    """Hand over log records as they are."""

    def __init__(self, take: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over one record."""
        self._take(record)
