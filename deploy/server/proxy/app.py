"""The side of the server that faces clients over HTTP, in a thread of this process; and the metrics' one address."""

import asyncio
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web

from deploy.server.errors import ServerError
from deploy.server.internal_endpoint import ADDRESS, PrivateSide
from deploy.server.options import ServerOptions
from deploy.server.proxy.handlers import Gateway

START_SECONDS = 10.0
METRICS_SECONDS = 2.0
# tritonserver does not end while a connection to its HTTP side is open.
IDLE_SECONDS = 0.5
# For answers that are being written when the server has drained.
CLOSE_SECONDS = 1.0


@dataclass
class Front:
    """Listens from `start` to `stop`; `ready` says whether inferences would be answered.

    metrics_port: of tritonserver's own metrics, on the loopback.  log: takes one line of JSON a request.
    """

    options: ServerOptions
    private: PrivateSide
    metrics_port: int
    ready: Callable[[], bool]
    log: Callable[[str], None]

    def start(self) -> None:
        """Return once it listens; raises ServerError where a port is taken or the certificate is not one."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(START_SECONDS)
        except OSError as error:
            self.stop()
            raise ServerError(f"the HTTP front cannot start: {error}") from None

    def stop(self) -> None:
        """Answer what is being answered, and end."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(2 * CLOSE_SECONDS + 1)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        # Without headers of its own: asked for compression, the server would compress masks at the cost of latency.
        self._session = ClientSession(
            connector=TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
            cookie_jar=DummyCookieJar(),
            skip_auto_headers=["Accept-Encoding"],
        )
        self._runners: list[web.AppRunner] = []
        options = self.options
        self._gateway = Gateway(
            self.private, self._session, self.ready, options.max_request_bytes, options.token, self.log
        )
        metrics = web.Application()
        metrics.router.add_get("/metrics", self._metrics)
        await self._serve(self._gateway.application(), options.http_port, tls_context(options))
        await self._serve(metrics, options.metrics_port, None)

    async def _serve(self, app: web.Application, port: int, tls: ssl.SSLContext | None) -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
        self._runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, self.options.address, port, ssl_context=tls).start()

    async def _close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        await self._session.close()

    async def _metrics(self, _request: web.Request) -> web.Response:
        """The server's families, where it runs, and the front's own."""
        theirs = ""
        with suppress(ClientError, asyncio.TimeoutError):
            url = f"http://{ADDRESS}:{self.metrics_port}/metrics"
            async with self._session.get(url, timeout=ClientTimeout(total=METRICS_SECONDS)) as answer:
                theirs = await answer.text()
        return web.Response(text=theirs + self._gateway.rejections.text())


def tls_context(options: ServerOptions) -> ssl.SSLContext | None:
    """What HTTPS needs, where a certificate is given; raises OSError (ssl.SSLError) for files that are none."""
    if options.tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.tls.certificate, options.tls.key)
    return context
