"""Choose which of several servers to try next."""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

# A server that was unavailable is not tried first for this long.
REST_SECONDS = 1.0

Server = TypeVar("Server")


class Balancer(Generic[Server]):
    """Take turns over the servers in service.

    Threads may share one balancer.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = list(servers)
        self._rests_until = [0.0] * len(servers)
        self._turn = 0
        self._lock = threading.Lock()

    def candidates(self) -> Iterator[Server]:
        """Yield every server once: those in service, in turn, then those at rest."""
        with self._lock:
            count, now = len(self._servers), time.monotonic()
            order = [(self._turn + step) % count for step in range(count)]
            self._turn = (self._turn + 1) % count
            # A stable sort keeps the turns. Those at rest stay in, for the case that no other answers.
            order.sort(key=lambda index: self._rests_until[index] > now)
        return (self._servers[index] for index in order)

    def drop(self, server: Server) -> None:
        """Take a server out of service for REST_SECONDS."""
        with self._lock:
            self._rests_until[self._servers.index(server)] = time.monotonic() + REST_SECONDS
