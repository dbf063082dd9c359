"""Listen for clients over HTTP and gRPC in threads of this process, and serve all metrics at one address."""

import asyncio
import ssl
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiohttp import ClientSession, DummyCookieJar, UnixConnector, web

from deploy.errors import ServerError
from deploy.server.internal_endpoint import InternalEndpoint
from deploy.server.options import ServerOptions
from deploy.server.proxy.grpc_proxy import GrpcProxy
from deploy.server.proxy.handlers import Handlers
from deploy.server.proxy.request import Rejections

START_SECONDS = 10.0
# tritonserver does not end while a connection to its HTTP endpoint is open.
IDLE_SECONDS = 0.5
# For responses that are still being written when the server has drained.
CLOSE_SECONDS = 1.0


class Proxy:
    """Listen from `start` to `stop`, on the ports for HTTP, gRPC and metrics.

    An instance is started once.
    """

    def __init__(
        self,
        options: ServerOptions,
        internal: InternalEndpoint,
        *,
        ready: Callable[[], bool],
        log: Callable[[str], None],
    ) -> None:
        """Prepare the proxy.

        Args:
            options: where to listen, and the limits, TLS and token for clients.
            internal: where requests are forwarded to.
            ready: returns whether inferences would be answered.
            log: takes one line of JSON for each request.
        """
        self._options, self._internal = options, internal
        self._ready, self._log = ready, log
        self._rejections = Rejections()
        self._grpc = GrpcProxy(options, internal.grpc, ready=ready, log=log, rejections=self._rejections)
        # An event loop in a thread: a program uses the server through plain blocking calls.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        # What `_close` gives back, in reverse order.
        self._resources = AsyncExitStack()

    def start(self) -> None:
        """Start to listen.

        Raises ServerError where a port is taken or the certificate is not one.
        """
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(START_SECONDS)
            self._grpc.start()
        except OSError as error:
            self.stop()
            raise ServerError(f"the proxy cannot start: {error}") from None

    def stop(self) -> None:
        """Finish the responses that are being written, then stop listening and end the thread."""
        self._grpc.stop(CLOSE_SECONDS)
        # Each of the two sites may take CLOSE_SECONDS.
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(2 * CLOSE_SECONDS + 1)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        session = ClientSession(
            connector=UnixConnector(str(self._internal.http), limit=0, keepalive_timeout=IDLE_SECONDS),
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
            max_bytes=options.max_request_bytes,
            token=options.token,
            log=self._log,
            rejections=self._rejections,
        )
        await self._serve(handlers.application(), options.http_port, tls_context(options))
        await self._serve(handlers.metrics_application(), options.metrics_port, None)

    async def _close(self) -> None:
        await self._resources.aclose()
        # aiohttp may still wait for the rest of a refused body, and asyncio complains of a loop closed over a task.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, app: web.Application, port: int, tls: ssl.SSLContext | None) -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
        self._resources.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, self._options.address, port, ssl_context=tls).start()


def tls_context(options: ServerOptions) -> ssl.SSLContext | None:
    """Return the TLS context of the options' certificate, or None where they name none.

    Raises OSError (ssl.SSLError) for files that are not a certificate and its key.
    """
    if options.tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.tls.certificate, options.tls.key)
    return context
