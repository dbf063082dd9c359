"""Keeps a server answering: a worker that died or hangs is replaced, and the whole server where that does not help."""

import time
from collections.abc import Callable
from typing import NoReturn

from deploy.server.errors import ServerError
from deploy.server.server import Server

INTERVAL_SECONDS = 1.0
# More restarts than this in a row, and something is wrong that a restart does not cure.
MAX_RESTARTS = 3


class Supervisor:
    """Watches a started server.

    report: takes one line about each fault found and each repair.
    """

    def __init__(self, server: Server, report: Callable[[str], None]) -> None:
        self._server, self._report = server, report

    def watch(self) -> NoReturn:
        """Check every model each second and repair, for ever; raises ServerError where repairs do not hold."""
        restarts = 0
        while True:
            time.sleep(INTERVAL_SECONDS)
            try:
                self.attend()
                restarts = 0
            except ServerError as error:
                if restarts == MAX_RESTARTS:
                    raise
                restarts += 1
                self._report(f"restarting the server ({restarts} of {MAX_RESTARTS}): {error}")
                self.restart()

    def attend(self) -> None:
        """Check once, and replace the workers of a model that does not answer; ServerError asks for a restart."""
        for name in self._server.configs:
            self._attend_model(name)
        self._server.ready = True

    def _attend_model(self, name: str) -> None:
        try:
            self._server.check(name)
        except ServerError as error:
            self._server.ready = False
            if not self._server.running:
                raise
            self._report(f"replacing the workers of {name}: {error}")
            self._server.reload(name)
            self._report(f"{name} answers again")

    def restart(self) -> None:
        """Stop what is left of the server and start it anew; a failure to start is reported, not raised."""
        self._server.stop()
        try:
            self._server.start()
        except ServerError as error:
            # Counted by the next check, which fails as long as there is no server.
            self._report(f"the server did not come back: {error}")
