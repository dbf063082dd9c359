"""The server as a child process: its log is read line by line, its end is orderly."""

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from deploy.server.errors import ServerError
from deploy.server.process.workers import children_of

# The last of its services; each says "Started" first and may then find its port taken.
_STARTED = "Started Metrics Service at"
# 2026-01-31T12:00:00Z E 4711 main.cc:257] "failed to start HTTP service: ..." and, before logging is up, error: ...
_FAILURE = re.compile(r'^(?:\S+ E \d+ \S+\] "(?=failed to start)|error: )(?P<reason>.*?)"?\s*$')
POLL_SECONDS = 0.05
# Between a worker's end and the last byte of its answer on the wire.
LAST_ANSWERS_SECONDS = 1.0


class ServerProcess:
    """A running `tritonserver`.

    Each line that it or its workers print goes to `log`, from a thread of its own.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Callable[[str], None]) -> None:
        # A session of its own: Ctrl-C at a terminal must reach only the parent, which drains the server first.
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._log = log
        self._changed = threading.Event()
        self._started = False
        self._failure = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The server's process id; its workers are its children."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there; it may still be unable to answer."""
        return self._process.poll() is None

    def wait_started(self, timeout: float) -> None:
        """Return once its services start; raises ServerError with the server's own words where it gave up."""
        self._changed.wait(timeout)
        if not self._started:
            raise ServerError(self.failure() or f"the server did not start within {timeout:g} s")

    def failure(self) -> str:
        """Why it did not start, in its own words, or how it ended; empty while it runs."""
        if not self.running:
            self._reader.join(1.0)
            return self._failure or f"the server ended with exit code {self._process.returncode}"
        return self._failure

    def stop(self, drain: float) -> bool:
        """End it: SIGTERM lets requests in flight finish, SIGKILL is the last step.  Returns whether it drained.

        It has drained when its workers are gone.  The server itself may then go on waiting: for a client that keeps an
        idle connection open, or for a model whose worker once died.
        """
        self._process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + drain
        drained = False
        try:
            while self.running and time.monotonic() < deadline and not drained:
                drained = not children_of(self.pid)
                self._wait(LAST_ANSWERS_SECONDS if drained else POLL_SECONDS)
        except KeyboardInterrupt:
            # Asked to stop a second time: at once.
            drained = False
        self._process.kill()
        self._process.wait()
        self._reader.join(1.0)
        return drained or self._process.returncode == 0

    def _wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._take(line)
        self._changed.set()

    def _take(self, line: str) -> None:
        if _STARTED in line:
            self._started = True
            self._changed.set()
        elif failure := _FAILURE.match(line):
            self._failure = failure["reason"].strip()
        self._log(line.rstrip("\n"))
