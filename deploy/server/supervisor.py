"""Keep a server answering: replace a worker that died or hangs, and restart the server where that does not help."""

import time
from collections.abc import Callable
from typing import NoReturn

from deploy.errors import ServerError
from deploy.server.reload import Reloads
from deploy.server.server import Server

INTERVAL_SECONDS = 1.0
# More restarts in a row than this mean a fault that a restart does not cure.
MAX_RESTARTS = 3


class Supervisor:
    """Watch a started server and repair it.

    report: takes one line for each fault and for each repair.
    """

    def __init__(self, server: Server, report: Callable[[str], None], reloads: Reloads | None = None) -> None:
        """Take a server, and where SIGHUP asks for reloads what listens to it."""
        self._server, self._report, self._reloads = server, report, reloads

    def watch(self) -> NoReturn:
        """Check every model each second and repair it, and reload when it is asked for, without end.

        Raises ServerError where repairs do not hold.
        """
        restarts = 0
        self._announce()
        while True:
            time.sleep(INTERVAL_SECONDS)
            if self._reloads and self._reloads.wanted:
                self._report(self._reloads.run(self._server.folder, self._server.roll_out))
            try:
                self.attend()
                # One good check ends a series: faults that are hours apart must not add up.
                restarts = 0
            except OSError as error:
                # Whatever this process lacks, nothing was found out about the server, which goes on.
                self._report(f"the models were not checked: {error.strerror}")
            except ServerError as error:
                if restarts == MAX_RESTARTS:
                    raise
                restarts += 1
                self._report(f"restarting the server ({restarts} of {MAX_RESTARTS}): {error}")
                self.restart()

    def attend(self) -> None:
        """Check every model once and replace the workers of one that does not answer.

        Raises ServerError where only a restart of the server can help, and OSError where this process lacks files or
        memory to look.
        """
        for name in self._server.release.configs:
            self._attend_model(name)
        self._server.ready = True

    def _attend_model(self, name: str) -> None:
        try:
            self._server.check(name)
        except ServerError as error:
            # Load balancers must not send requests here while the model is repaired.
            self._server.ready = False
            if not self._server.running:
                raise
            self._report(f"replacing the workers of {name}: {error}")
            self._server.replace_workers(name)
            self._report(f"{name} answers again")

    def restart(self) -> None:
        """Stop what is left of the server and start it again.

        A failure to start is reported, not raised.
        """
        self._server.stop()
        try:
            self._server.start()
            self._announce()
        except (ServerError, OSError) as error:
            # The next check fails as long as there is no server, and counts as the next restart.
            self._report(f"the server did not come back: {error}")

    def _announce(self) -> None:
        if self._reloads:
            self._reloads.announce(self._server.folder, self._server.repository)
