"""What may be chosen about a server."""

import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Tuning = Literal["latency", "throughput"]
MAX_REQUEST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Tls:
    """PEM files: the server's certificate (chain) and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where the server listens, what it is tuned for, and whom it lets in.

    address: of the interface to bind.  Ports: 0 picks a free one.
    tuning: "latency" is one worker with every core, "throughput" one worker a core.
    max_request_bytes: of one request; more is answered with 413 over HTTP, with INVALID_ARGUMENT over gRPC.
    tls: encrypts HTTP and gRPC (the metrics stay plain).  token: asked of every request but those for health.
    """

    address: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    tuning: Tuning = "latency"
    max_request_bytes: int = MAX_REQUEST_BYTES
    tls: Tls | None = None
    token: str = ""

    def with_ports(self) -> "ServerOptions":
        """These options with a free port in place of each 0."""
        free = free_ports(self.address, 3)
        return replace(
            self,
            http_port=self.http_port or free[0],
            grpc_port=self.grpc_port or free[1],
            metrics_port=self.metrics_port or free[2],
        )


FREE_PORTS = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)


def free_ports(address: str, count: int) -> list[int]:
    """`count` different ports that nothing listens on at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((address, 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
