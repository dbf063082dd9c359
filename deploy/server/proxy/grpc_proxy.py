"""Answer gRPC clients: check who asks and for what, and forward the bytes of a call to tritonserver's own socket."""

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from deploy.contract import GRPC_TOKEN_HEADER, LONGEST_ID
from deploy.server.options import ServerOptions
from deploy.server.proxy.admission import Admission
from deploy.server.proxy.extensions import open_message
from deploy.server.proxy.identity import HashOf, identified_message
from deploy.server.proxy.limits import BODY_SECONDS, HEAD_SECONDS, IDLE_SECONDS, most_connections
from deploy.server.proxy.message import Inference, read_inference, streamed, streamed_error, with_id
from deploy.server.proxy.request import (
    FAULT,
    LOST,
    RESPONSE_SECONDS,
    RETRY_SECONDS,
    TRACE_HEADER,
    UNAVAILABLE,
    Rejection,
    Rejections,
    trace_of,
)

SERVICE = "/inference.GRPCInferenceService/"
CHECK = "/grpc.health.v1.Health/Check"
LIVE, READY = SERVICE + "ServerLive", (SERVICE + "ServerReady", SERVICE + "ModelReady", CHECK)
INFER, STREAM = SERVICE + "ModelInfer", SERVICE + "ModelStreamInfer"
METADATA = SERVICE + "ServerMetadata"
INFORMATION = tuple(SERVICE + name for name in ("ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex"))
# Calls that would let a client load code, map memory or write files. There are several of each.
CLOSED = tuple(SERVICE + name for name in ("Repository", "SystemSharedMemory", "CudaSharedMemory", "Trace", "Log"))
# Field 1 of each answer: true of live and ready, SERVING or NOT_SERVING of the standard health check.
YES, NO, NOT_SERVING = b"\x08\x01", b"", b"\x08\x02"
# Calls at a time, since each may hold a message, and the streams among them, which may last.
CALLS, STREAMS = 256, 128
# What a request holds beside images: names, shapes and the frames around them.
OVERHEAD_BYTES = 2**20
# What gRPC's own retries read, and what others do.
RETRY_HINT = (("grpc-retry-pushback-ms", str(1000 * RETRY_SECONDS)), ("retry-after", str(RETRY_SECONDS)))
# gRPC's names of what a rejection's HTTP status says.
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Metadata = tuple[tuple[str, str | bytes], ...]
Context = Any  # grpc.aio.ServicerContext, which has no types

_UPSTREAM = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that was restarted is found at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Else two channels of this process to one path would share a connection, and how it failed.
    ("grpc.use_local_subchannel_pool", 1),
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
    """Listen for gRPC from `start` to `stop`, in the event loop that runs them.

    Messages are bytes, of which only the names and numbers are read. A call is refused before its message is read. An
    instance is started once.
    """

    def __init__(
        self,
        options: ServerOptions,
        socket: Path,
        *,
        ready: Callable[[], bool],
        hash_of: HashOf,
        log: Callable[[str], None],
        rejections: Rejections,
        admission: Admission,
    ) -> None:
        """Prepare the proxy.

        Args:
            options: where to listen, and the limits, TLS and token for clients.
            socket: tritonserver's.
            ready: returns whether inferences would be answered.
            hash_of: returns the hash of a model's version.
            log: takes one line of JSON for each inference and each refused call.
            rejections: counts what was refused.
            admission: decides when an inference is forwarded.
        """
        self._options, self._socket = options, socket
        self._ready, self._log, self._rejections, self._admission = ready, log, rejections, admission
        self._identified = partial(identified_message, hash_of=hash_of)
        # Inferences and streams that are there at the moment.
        self._present, self._streams = 0, 0

    async def start(self) -> None:
        """Start to listen.

        Raises OSError where the port is taken, or a file of TLS cannot be read.
        """
        self._channel = grpc.aio.insecure_channel(f"unix:{self._socket}", _UPSTREAM)
        self._calls = {method: self._channel.unary_unary(method) for method in (*READY, *INFORMATION)}
        self._calls[METADATA] = self._channel.unary_unary(METADATA, response_deserializer=open_message)
        self._calls[INFER] = self._channel.unary_unary(INFER, response_deserializer=self._identified)
        largest = self._options.max_request_bytes + OVERHEAD_BYTES
        self._server = grpc.aio.server(handlers=[self], options=_downstream(largest))
        address, tls = self._options.endpoint(self._options.grpc_port), self._options.tls
        try:
            if tls:
                pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
                self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                self._server.add_insecure_port(address)
        except RuntimeError:
            # gRPC does not say which of the two it is.
            raise OSError(f"{address} is in use or no address of this machine (gRPC)") from None
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Stop listening, and end the calls that are still in work after `grace` seconds."""
        await self._server.stop(grace)
        await self._channel.close()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return what answers a call, or None where there is no such method."""
        method: str = details.method
        if method == LIVE or (method in READY and not self._ready()):
            return _constant(YES if method == LIVE else NOT_SERVING if method == CHECK else NO)
        if method not in READY and not self._authorised(details.invocation_metadata):
            message = f"send the server's token as {GRPC_TOKEN_HEADER}"
            return self._refuse(method, Rejection(401, "unauthorised", message))
        if method == STREAM and self._streams >= STREAMS:
            return self._refuse(method, Rejection(503, "too_many_streams", f"the server has {STREAMS} streams already"))
        if method in (INFER, STREAM) and self._present >= CALLS:
            return self._refuse(method, Rejection(503, "overloaded", f"the server has {CALLS} calls already"))
        if method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        # As streams of one message, which is then read by this code, and for a limited time.
        if method == INFER:
            return grpc.stream_unary_rpc_method_handler(self._infer)
        if call := self._calls.get(method):
            return grpc.stream_unary_rpc_method_handler(partial(self._forward, call))
        if method.startswith(CLOSED):
            return self._refuse(method, Rejection(403, "closed", "this call is closed to clients"))
        return None

    def _authorised(self, metadata: Metadata) -> bool:
        given = next((value for name, value in metadata if name == GRPC_TOKEN_HEADER), "")
        token = self._options.token
        # In constant time: how long a comparison takes must not tell how much of a guess was right.
        return not token or hmac.compare_digest(given if isinstance(given, bytes) else given.encode(), token.encode())

    def _refuse(self, method: str, rejection: Rejection) -> grpc.RpcMethodHandler:
        """Count and log a refusal, and return what tells the client without reading what it sends."""
        self._rejections.add(rejection.reason)
        code = CODES[rejection.status]
        line = {"request": "", "protocol": "grpc", "path": method[:LONGEST_ID], "status": code.name}
        self._log(json.dumps({**line, "rejected": rejection.reason}))

        async def refuse(_requests: object, context: Context) -> None:
            await _abort(context, code, rejection.message)

        return grpc.stream_unary_rpc_method_handler(refuse)

    async def _infer(self, _requests: object, context: Context) -> bytes:
        """Answer an inference."""
        try:
            answer, _ = await self._respond(INFER, self._message(context), context)
            return answer
        except _Failure as failure:
            await _abort(context, failure.code, str(failure))
            raise

    async def _stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answer the inferences of a stream, one after the other. One that fails does not end it."""
        self._streams += 1
        try:
            async for message in requests:
                try:
                    answer, inference = await self._respond(STREAM, _given(message), context)
                    yield streamed(answer, end=inference.wants_end)
                except _Failure as failure:
                    yield streamed_error(str(failure), failure.identity)
        finally:
            self._streams -= 1

    async def _respond(self, method: str, receive: Awaitable[bytes], context: Context) -> tuple[bytes, Inference]:
        """Return the answer to an inference, and what it was, and log it.

        Raises _Failure with what its client is told.
        """
        begin, inference, code, reason = time.monotonic(), Inference(), grpc.StatusCode.OK, ""
        self._present += 1
        try:
            message = await receive
            inference = read_inference(message)
            if not inference.id:
                inference.id = uuid.uuid4().hex
                message = with_id(message, inference.id)
            return await self._admitted(message, inference), inference
        except Rejection as rejection:
            code, reason = CODES[rejection.status], rejection.reason
            raise _Failure(code, rejection.message, inference.id) from None
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise _Failure(code, self._details(error), inference.id) from None
        except asyncio.CancelledError:
            # gRPC itself ends a call whose message is too large.
            code, reason = grpc.StatusCode.CANCELLED, "client_gone" if inference.model else "not_received"
            raise
        except Exception as error:
            code = grpc.StatusCode.INTERNAL
            self._log(json.dumps({"request": inference.id[:LONGEST_ID], "error": f"{type(error).__name__}: {error}"}))
            raise _Failure(code, FAULT, inference.id) from None
        finally:
            self._present -= 1
            if reason:
                self._rejections.add(reason)
            trace = _trace(context)
            # An answer has a line of the worker's already, and a second one would cost it a tenth of a millisecond.
            if trace or code is not grpc.StatusCode.OK:
                line = {"request": inference.id[:LONGEST_ID], "protocol": "grpc", "path": method, "status": code.name}
                taken = {"rejected": reason, "milliseconds": round(1000 * (time.monotonic() - begin), 1)}
                self._log(json.dumps({**line, **taken, **trace}))

    async def _admitted(self, message: bytes, inference: Inference) -> bytes:
        """Forward an inference once its turn has come."""
        content = inference.content or [memoryview(message)]

        async def forward() -> bytes:
            try:
                answer: bytes = await self._calls[INFER](message, timeout=RESPONSE_SECONDS)
            except grpc.aio.AioRpcError as error:
                if LOST in (error.details() or ""):
                    self._admission.lost(inference.model, content)
                raise
            self._admission.answered(inference.model, content)
            return answer

        return await self._admission.run(inference.model, content, inference.timeout / 1e6 or None, forward)

    async def _forward(self, call: Any, _requests: object, context: Context) -> bytes:
        """Answer a call of one message with the server's answer."""
        try:
            answer: bytes = await call(await self._message(context), timeout=RESPONSE_SECONDS)
        except Rejection as rejection:
            self._rejections.add(rejection.reason)
            await _abort(context, CODES[rejection.status], rejection.message)
        except grpc.aio.AioRpcError as error:
            await _abort(context, error.code(), self._details(error))
        return answer

    async def _message(self, context: Context) -> bytes:
        """Return the only message of a call."""
        task, late = asyncio.current_task(), False
        assert task is not None

        def give_up() -> None:
            nonlocal late
            late = True
            task.cancel()

        # Not by asyncio.wait_for, which makes a task of its own for each call.
        timer = asyncio.get_running_loop().call_later(BODY_SECONDS, give_up)
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if late:
                raise Rejection(408, "too_slow", f"the message did not arrive within {BODY_SECONDS:g} s") from None
            raise
        finally:
            timer.cancel()
        if message is grpc.aio.EOF:
            raise Rejection(400, "malformed_request", "the call holds no message")
        return message  # type: ignore[no-any-return]

    def _details(self, error: grpc.aio.AioRpcError) -> str:
        details = error.details() or ""
        # gRPC's own words name the socket.
        return UNAVAILABLE if str(self._socket.parent) in details else details


class _Failure(Exception):  # noqa: N818 (an answer, not a fault)
    """Hold the status and the message that end a call, and the id of its request."""

    def __init__(self, code: grpc.StatusCode, message: str, identity: str) -> None:
        super().__init__(message)
        self.code, self.identity = code, identity


async def _given(message: bytes) -> bytes:
    return message


def _constant(answer: bytes) -> grpc.RpcMethodHandler:
    async def respond(_request: bytes, _context: Context) -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(respond)


def _trace(context: Context) -> dict[str, str]:
    """Return the log's field for the trace that a call belongs to."""
    given = next((value for name, value in context.invocation_metadata() or () if name == TRACE_HEADER), "")
    return trace_of(given if isinstance(given, str) else "")


async def _abort(context: Context, code: grpc.StatusCode, message: str) -> None:
    await context.abort(code, message, RETRY_HINT if code is grpc.StatusCode.UNAVAILABLE else ())
