"""Answer gRPC clients: check who asks and for what, and forward the bytes of a call to tritonserver's own socket."""

import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import grpc
from grpc.experimental import ChannelOptions

from deploy.contract import GRPC_TOKEN_HEADER, LONGEST_ID
from deploy.server.options import ServerOptions
from deploy.server.proxy.limits import BODY_SECONDS, HEAD_SECONDS, IDLE_SECONDS, most_connections
from deploy.server.proxy.request import Rejections

SERVICE = "/inference.GRPCInferenceService/"
CHECK = "/grpc.health.v1.Health/Check"
LIVE, READY = SERVICE + "ServerLive", (SERVICE + "ServerReady", SERVICE + "ModelReady", CHECK)
STREAM = SERVICE + "ModelStreamInfer"
INFORMATION = tuple(SERVICE + name for name in ("ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics"))
FORWARDED = (*READY, *INFORMATION, SERVICE + "ModelInfer")
# Calls that would let a client load code, map memory or write files. There are several of each.
CLOSED = tuple(SERVICE + name for name in ("Repository", "SystemSharedMemory", "CudaSharedMemory", "Trace", "Log"))
# Field 1 of each answer: true of live and ready, SERVING or NOT_SERVING of the standard health check.
YES, NO, NOT_SERVING = b"\x08\x01", b"", b"\x08\x02"
# A call occupies a thread from its beginning to its end.
THREADS = 256
# A stream may last, so that streams alone must not occupy every thread.
STREAMS = THREADS // 2
# What a request holds beside images: names, shapes and the frames around them.
OVERHEAD_BYTES = 2**20
ENDLESS_SECONDS = 1e9

Metadata = tuple[tuple[str, str | bytes], ...]
Requests = Iterator[bytes]

_UPSTREAM = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that was restarted is found at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Else two channels of this process to one path would share a connection, and how it failed.
    ("grpc.use_local_subchannel_pool", 1),
    (ChannelOptions.SingleThreadedUnaryStream, 1),
]


def _downstream(largest: int) -> list[tuple[str, int]]:
    """Return the options of the side that faces clients, who may send messages of `largest` bytes."""
    return [
        # Else two servers of one user would share the port without a word.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_allowed_incoming_connections", most_connections()),
        ("grpc.server_handshake_timeout_ms", int(1000 * HEAD_SECONDS)),
        ("grpc.max_connection_idle_ms", int(1000 * IDLE_SECONDS)),
        # A peer that is gone without a word is noticed.
        ("grpc.keepalive_time_ms", int(1000 * BODY_SECONDS)),
        ("grpc.keepalive_timeout_ms", int(1000 * HEAD_SECONDS)),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


class GrpcProxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Listen for gRPC from `start` to `stop`.

    Messages are bytes, which are not parsed. A call is refused before its message is read. An instance is started
    once.
    """

    def __init__(
        self,
        options: ServerOptions,
        socket: Path,
        *,
        ready: Callable[[], bool],
        log: Callable[[str], None],
        rejections: Rejections,
    ) -> None:
        """Prepare the proxy.

        Args:
            options: where to listen, and the limits, TLS and token for clients.
            socket: tritonserver's.
            ready: returns whether inferences would be answered.
            log: takes one line of JSON for each refused call.
            rejections: counts what was refused.
        """
        self._options, self._socket = options, socket
        self._ready, self._log, self._rejections = ready, log, rejections
        self._channel = grpc.insecure_channel(f"unix:{socket}", _UPSTREAM)
        # As a stream of one answer: such a call can be cancelled and takes no thread beside the one that waits.
        self._calls = {method: self._channel.unary_stream(method) for method in FORWARDED}
        self._streams = threading.BoundedSemaphore(STREAMS)
        # The calls whose message has not arrived yet, and since when.
        self._awaited: dict[grpc.ServicerContext, float] = {}
        self._stopped = threading.Event()
        self._watchman = threading.Thread(target=self._watch, daemon=True)
        # Threads start as calls need them.
        self._pool = ThreadPoolExecutor(THREADS, "grpc-proxy")
        largest = options.max_request_bytes + OVERHEAD_BYTES
        self._server = grpc.server(
            self._pool, handlers=[self], options=_downstream(largest), maximum_concurrent_rpcs=THREADS
        )

    def start(self) -> None:
        """Start to listen.

        Raises OSError where the port is taken, or a file of TLS cannot be read.
        """
        address, tls = f"{self._options.address}:{self._options.grpc_port}", self._options.tls
        try:
            if tls:
                pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
                self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                self._server.add_insecure_port(address)
        except RuntimeError:
            # gRPC does not say which of the two it is.
            raise OSError(f"{address} is in use or no address of this machine (gRPC)") from None
        self._server.start()
        self._watchman.start()

    def stop(self, grace: float) -> None:
        """Stop listening, and end the calls that are still in work after `grace` seconds."""
        self._stopped.set()
        self._server.stop(grace).wait()
        self._channel.close()
        self._pool.shutdown(wait=False)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return what answers a call, or None where there is no such method."""
        method: str = details.method
        if method == LIVE or (method in READY and not self._ready()):
            answer = YES if method == LIVE else NOT_SERVING if method == CHECK else NO
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: answer)
        if method not in READY and not self._authorised(details.invocation_metadata):
            message = f"send the server's token as {GRPC_TOKEN_HEADER}"
            return self._refuse(method, "unauthorised", grpc.StatusCode.UNAUTHENTICATED, message)
        if method.startswith(CLOSED):
            return self._refuse(method, "closed", grpc.StatusCode.PERMISSION_DENIED, "this call is closed to clients")
        if method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        if call := self._calls.get(method):
            # As a stream of one message, which is then read by this code, and for a limited time.
            return grpc.stream_unary_rpc_method_handler(
                lambda requests, context: self._forward(call, requests, context)
            )
        return None

    def _authorised(self, metadata: Metadata) -> bool:
        given = next((value for name, value in metadata if name == GRPC_TOKEN_HEADER), "")
        token = self._options.token
        # In constant time: how long a comparison takes must not tell how much of a guess was right.
        return not token or hmac.compare_digest(given if isinstance(given, bytes) else given.encode(), token.encode())

    def _refuse(self, method: str, reason: str, code: grpc.StatusCode, message: str) -> grpc.RpcMethodHandler:
        """Count and log a refusal, and return what tells the client without reading what it sends."""
        self._rejections.add(reason)
        line = {"request": "", "protocol": "grpc", "path": method[:LONGEST_ID], "status": code.name, "rejected": reason}
        self._log(json.dumps(line))
        return grpc.stream_unary_rpc_method_handler(lambda _requests, context: context.abort(code, message))

    def _forward(self, call: Any, requests: Requests, context: grpc.ServicerContext) -> bytes:
        """Answer a call of one message with the server's answer."""
        answer = call(self._message(requests, context), timeout=_deadline(context))
        # A client that has gone takes its request out of the server's queue.
        if not context.add_callback(answer.cancel):
            answer.cancel()
        try:
            # To the end of the stream: the status comes after the message.
            (content,) = answer
        except grpc.RpcError:
            self._fail(answer, context)
        return content  # type: ignore[no-any-return]

    def _stream(self, requests: Requests, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Answer a stream of inferences with the server's stream of answers."""
        if not self._streams.acquire(blocking=False):
            self._rejections.add("too_many_streams")
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the server has {STREAMS} streams already")
        try:
            answers = self._channel.stream_stream(STREAM)(requests, timeout=_deadline(context))
            context.add_callback(answers.cancel)
            try:
                yield from answers
            except grpc.RpcError:
                self._fail(answers, context)
        finally:
            self._streams.release()

    def _message(self, requests: Requests, context: grpc.ServicerContext) -> bytes:
        self._awaited[context] = time.monotonic()
        try:
            return next(requests)
        except StopIteration:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "the call holds no message")
        finally:
            del self._awaited[context]

    def _fail(self, call: grpc.Call, context: grpc.ServicerContext) -> NoReturn:
        """End a call as the server ended it."""
        code, details = call.code(), call.details() or ""
        # gRPC's own words name the socket.
        if str(self._socket.parent) in details:
            details = "the server is not available: it is being started or repaired"
        _abort(context, code, details)

    def _watch(self) -> None:
        """End calls whose message does not arrive, which would occupy a thread for ever."""
        while not self._stopped.wait(1.0):
            late = time.monotonic() - BODY_SECONDS
            for context in [context for context, since in list(self._awaited.items()) if since < late]:
                self._rejections.add("too_slow")
                context.cancel()


def _deadline(context: grpc.ServicerContext) -> float | None:
    """Return the seconds that the client waits, or None for a client without a limit."""
    seconds: float | None = context.time_remaining()
    # gRPC gives centuries for none, and does not take them back.
    return seconds if seconds is not None and seconds < ENDLESS_SECONDS else None


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort does not return")
