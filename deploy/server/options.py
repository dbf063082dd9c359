"""Describe what may be chosen about a server."""

import socket
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

# What deploy.tune has found to be best, or one end of what it has measured.
Tuning = Literal["tuned", "latency", "throughput"]
MAX_REQUEST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Tls:
    """Name the PEM files of TLS.

    certificate: the server's certificate, or its chain.
    key: the certificate's private key.
    """

    certificate: Path
    key: Path


def plural(count: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Workers:
    """Choose how a model is served.

    workers: processes that answer at the same time.
    threads: of each.
    """

    workers: int
    threads: int

    def __str__(self) -> str:
        """Return both in words."""
        return f"{plural(self.workers, 'worker')} of {plural(self.threads, 'thread')}"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Describe where the server listens, what it is tuned for, and which clients it serves.

    address: of the interface to bind.
    http_port: of the proxy. 0 picks a free port, here and below.
    grpc_port: of the gRPC proxy.
    metrics_port: of the Prometheus metrics.
    tuning: "tuned" is what `deploy.tune` has written into the repository, for this network and machine, and "latency"
        and "throughput" are its two ends. Without it they are one worker with every core ("tuned" as well), and one
        worker a core. `Workers` are taken as they are.
    max_request_bytes: the limit on one request. A larger one fails with 413 over HTTP, and over gRPC with
        INVALID_ARGUMENT, or RESOURCE_EXHAUSTED from 1 MiB above on.
    tls: encrypts HTTP and gRPC. The metrics stay plain.
    token: what every request except those for health and the page must carry. Empty asks for none.
    page: whether http://HOST:PORT/ is a page to try the model on.
    """

    address: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    tuning: Tuning | Workers = "tuned"
    max_request_bytes: int = MAX_REQUEST_BYTES
    tls: Tls | None = None
    token: str = ""
    page: bool = True

    def with_ports(self) -> "ServerOptions":
        """Return these options with a free port in place of each 0."""
        free = free_ports(self.address, 3)
        return replace(
            self,
            http_port=self.http_port or free[0],
            grpc_port=self.grpc_port or free[1],
            metrics_port=self.metrics_port or free[2],
        )

    def endpoint(self, port: int) -> str:
        """Return address:port as gRPC and clients write it."""
        return f"[{self.address}]:{port}" if ":" in self.address else f"{self.address}:{port}"


FREE_PORTS = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)


def free_ports(address: str, count: int) -> list[int]:
    """Find `count` different ports that nothing listens on at the moment."""
    with ExitStack() as stack:
        # All are bound before any is released: one at a time, the system could name the same port twice.
        sockets = [stack.enter_context(listen(address, 0)) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def listen(address: str, port: int) -> socket.socket:
    """Listen on an address of either kind: `::` takes IPv4 as well."""
    if ":" not in address:
        return socket.create_server((address, port))
    return socket.create_server((address, port), family=socket.AF_INET6, dualstack_ipv6=address == "::")
