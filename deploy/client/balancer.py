"""Which of several servers to ask next."""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

# A server that was found unavailable is left alone for so long, then asked again.
REST_SECONDS = 1.0

Server = TypeVar("Server")


class Balancer(Generic[Server]):
    """Turn by turn over the servers in service; threads may share it."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = list(servers)
        self._rests_until = [0.0] * len(servers)
        self._turn = 0
        self._lock = threading.Lock()

    def candidates(self) -> Iterator[Server]:
        """Every server once: those in service in turn, then those at rest, since one that may answer beats none."""
        with self._lock:
            count, now = len(self._servers), time.monotonic()
            order = [(self._turn + step) % count for step in range(count)]
            self._turn = (self._turn + 1) % count
            order.sort(key=lambda index: self._rests_until[index] > now)
        return (self._servers[index] for index in order)

    def drop(self, server: Server) -> None:
        """Take a server out of service for REST_SECONDS."""
        with self._lock:
            self._rests_until[self._servers.index(server)] = time.monotonic() + REST_SECONDS
