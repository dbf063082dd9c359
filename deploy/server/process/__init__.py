"""Run tritonserver as a child process: its command line, its output line by line, and an orderly end."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from deploy.errors import ServerError
from deploy.server.internal_endpoint import InternalEndpoint
from deploy.server.process import guardian
from deploy.server.process.installation import server_root
from deploy.server.process.workers import children_of

# The last service to start. Each says "Started" first and may then find its port taken.
_STARTED = "Started Metrics Service at"
# 2026-01-31T12:00:00Z E 4711 main.cc:257] "failed to start HTTP service: ..." and, before logging is up, error: ...
_FAILURE = re.compile(r'^(?:\S+ E \d+ \S+\] "(?=failed to start)|error: )(?P<reason>.*?)"?\s*$')
# How long the server waits, once told to end, for the requests that it has accepted.
DRAIN_SECONDS = 12
POLL_SECONDS = 0.05
# Between a worker's end and the last byte of its response on the wire.
LAST_RESPONSES_SECONDS = 1.0


def server_command(repository: Path, backends: Path, internal: InternalEndpoint, regions: str) -> list[str]:
    """Return the command that starts tritonserver with no model loaded.

    Args:
        repository: the model repository.
        backends: the folder that `lay_out_backends` filled.
        internal: where it listens.
        regions: prefix of the names of its shared-memory regions.
    """
    return [
        str(server_root() / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        # Models are loaded by request: the reason of a failed load then comes back in the response.
        "--model-control-mode=explicit",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={regions}",
        # The build wrote complete configurations. Completing one would start a worker for nothing else.
        "--disable-auto-complete-config",
        "--allow-gpu-metrics=false",
        # The form that deploy.server.log parses.
        "--log-format=ISO8601",
        f"--exit-timeout-secs={DRAIN_SECONDS}",
        *internal.arguments(),
    ]


class ServerProcess:
    """Run one `tritonserver` under a guardian, which ends it and its workers when this process is gone.

    Each line that it or its workers print goes to `log`, called in a thread of this object.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        log: Callable[[str], None],
        *,
        folder: Path,
    ) -> None:
        """Start it.

        Args:
            command: tritonserver's.
            environment: variables of its process and its workers.
            log: takes each line.
            folder: the server's own, which is removed once it has ended. Shared memory whose name begins with the
                folder's is removed as well.

        Raises:
            ServerError: where the guardian does not run.
        """
        # In a session of its own: Ctrl-C at a terminal must reach only the parent, which drains the server first.
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, folder.name, str(folder), *command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        assert self._guardian.stdin is not None
        assert self._guardian.stdout is not None
        self._input, self._output = self._guardian.stdin, self._guardian.stdout
        first = self._output.readline().strip()
        if not first.isdecimal():
            self._guardian.kill()
            self._guardian.communicate()
            raise ServerError(f"tritonserver's guardian does not run: {first or 'it says nothing'}")
        # Its workers are its children.
        self.pid = int(first)
        self._log = log
        self._changed = threading.Event()
        self._started = False
        self._failure = ""
        # The pipe must be read for as long as the server runs: a full one would block it.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Return whether the process exists.

        It may still be unable to answer.
        """
        return self._guardian.poll() is None

    def wait_started(self, timeout: float) -> None:
        """Wait until its services start.

        Raises ServerError with the server's own words where they do not.
        """
        self._changed.wait(timeout)
        if not self._started:
            raise ServerError(self.failure() or f"the server did not start within {timeout:g} s")

    def failure(self) -> str:
        """Return why it did not start, in its own words, or how it ended.

        The text is empty while it runs well.
        """
        if not self.running:
            # The reason may be in the last lines, which the reader has not taken yet.
            self._reader.join(1.0)
            return self._failure or f"the server ended with exit code {self._guardian.returncode}"
        return self._failure

    def stop(self, drain: float) -> bool:
        """End the server and return whether it drained, that is, finished the requests in flight.

        SIGTERM lets it finish them within `drain` seconds. SIGKILL is the last step.
        """
        # Asked, the guardian sends SIGTERM.
        with suppress(OSError):
            self._input.write("e")
            self._input.flush()
        deadline = time.monotonic() + drain
        drained = False
        try:
            # Drained means that its workers are gone. The server itself may go on waiting for a client that keeps an
            # idle connection open, or for a model whose worker once died.
            while self.running and time.monotonic() < deadline and not drained:
                drained = not children_of(self.pid)
                self._wait(LAST_RESPONSES_SECONDS if drained else POLL_SECONDS)
        except KeyboardInterrupt:
            # A second request to stop ends the waiting.
            drained = False
        # The end of its input makes the guardian kill what is left.
        with suppress(OSError):
            self._input.close()
        if self._guardian.wait() < 0:
            # It was killed itself, and tritonserver with it, but not the workers.
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._reader.join(1.0)
        return drained or self._guardian.returncode == 0

    def _wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._guardian.wait(seconds)

    def _read(self) -> None:
        with self._output as lines:
            for line in lines:
                self._take(line)
        # The output has ended, so the start will not come: end the wait for it.
        self._changed.set()

    def _take(self, line: str) -> None:
        if _STARTED in line:
            self._started = True
            self._changed.set()
        elif failure := _FAILURE.match(line):
            self._failure = failure["reason"].strip()
        self._log(line.rstrip("\n"))
