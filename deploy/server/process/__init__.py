"""Run tritonserver as a child process: its command line, its output line by line, and an orderly end."""

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from deploy.contract import GRPC_TOKEN_HEADER
from deploy.errors import ServerError
from deploy.server.internal_endpoint import InternalEndpoint
from deploy.server.options import ServerOptions
from deploy.server.process.installation import server_root
from deploy.server.process.workers import children_of

# The last service to start. Each says "Started" first and may then find its port taken.
_STARTED = "Started Metrics Service at"
# 2026-01-31T12:00:00Z E 4711 main.cc:257] "failed to start HTTP service: ..." and, before logging is up, error: ...
_FAILURE = re.compile(r'^(?:\S+ E \d+ \S+\] "(?=failed to start)|error: )(?P<reason>.*?)"?\s*$')
# What clients use over gRPC. Health stays open, and the internal endpoint's key closes the rest.
_TOKEN_PROTECTED = "inference,metadata,model-config,statistics"
# How long the server waits, once told to end, for the requests that it has accepted.
DRAIN_SECONDS = 12
POLL_SECONDS = 0.05
# Between a worker's end and the last byte of its response on the wire.
LAST_RESPONSES_SECONDS = 1.0


def server_command(
    repository: Path, backends: Path, options: ServerOptions, internal: InternalEndpoint, regions: str
) -> list[str]:
    """Return the command that starts tritonserver with gRPC as `options` say, and with no model loaded.

    Args:
        repository: the model repository.
        backends: the folder that `lay_out_backends` filled.
        options: where gRPC listens, and its TLS and token.
        internal: where HTTP and the metrics listen.
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
        f"--grpc-address={options.address}",
        f"--grpc-port={options.grpc_port}",
        *internal.arguments(),
        *_protection(options),
    ]


def _protection(options: ServerOptions) -> list[str]:
    """Return the arguments for TLS and the token over gRPC.

    Over HTTP the proxy sees to both.
    """
    arguments = []
    if options.tls:
        certificate, key = options.tls.certificate, options.tls.key
        arguments += ["--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}"]
    if options.token:
        # The server adds this prefix to the header's name itself.
        name = GRPC_TOKEN_HEADER.removeprefix("triton-grpc-protocol-")
        arguments += [f"--grpc-restricted-protocol={_TOKEN_PROTECTED}:{name}={options.token}"]
    return arguments


class ServerProcess:
    """Run one `tritonserver`.

    Each line that it or its workers print goes to `log`, called in a thread of this object.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Callable[[str], None]) -> None:
        # In a session of its own: Ctrl-C at a terminal must reach only the parent, which drains the server first.
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
        # The pipe must be read for as long as the server runs: a full one would block it.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Return the server's process id.

        Its workers are its children.
        """
        return self._process.pid

    @property
    def running(self) -> bool:
        """Return whether the process exists.

        It may still be unable to answer.
        """
        return self._process.poll() is None

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
            return self._failure or f"the server ended with exit code {self._process.returncode}"
        return self._failure

    def stop(self, drain: float) -> bool:
        """End the server and return whether it drained, that is, finished the requests in flight.

        SIGTERM lets it finish them within `drain` seconds. SIGKILL is the last step.
        """
        self._process.send_signal(signal.SIGTERM)
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
        # The output has ended, so the start will not come: end the wait for it.
        self._changed.set()

    def _take(self, line: str) -> None:
        if _STARTED in line:
            self._started = True
            self._changed.set()
        elif failure := _FAILURE.match(line):
            self._failure = failure["reason"].strip()
        self._log(line.rstrip("\n"))
