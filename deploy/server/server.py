"""Run a server from a program: `with Server(repository) as server: ...`."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir
from types import TracebackType

from tritonclient.grpc import model_config_pb2 as schema

from deploy.errors import ServerError
from deploy.files import version_of
from deploy.server.internal_endpoint import InternalEndpoint, Probe
from deploy.server.options import ServerOptions
from deploy.server.process import DRAIN_SECONDS, POLL_SECONDS, ServerProcess, guardian, server_command
from deploy.server.process.installation import environment, lay_out_backends
from deploy.server.process.leftovers import environments, new_name, note_environments, remove_leftovers
from deploy.server.process.workers import children_of, cpu_seconds, kill_workers, workers_of
from deploy.server.proxy import Proxy
from deploy.server.proxy.admission import Admission
from deploy.server.release import Release

START_SECONDS = 60.0
# The server gives up draining by itself first, and says so in its log.
KILL_AFTER_SECONDS = 2.0
UNLOAD_SECONDS = 5.0
# How long a rollout waits for the workers of the version before, whose memory is free once they have ended.
OLD_WORKERS_SECONDS = 30.0
# Of one processor, what a worker uses at least where it shares the machine with many others.
LEAST_PROGRESS = 0.02
LONGEST_SOCKET = 107  # bytes of a socket's path on Linux
REPOSITORY = "repository"  # in the server's own folder, a link to what it serves
PLAIN = re.compile(r"[\w./+@=-]+", re.ASCII)


class Server:
    """Run the real `tritonserver` over a model repository.

    Once the `with` block is entered, or `start` has returned, every model has answered an inference.

    options: where it listens. A port that was given as 0 is a real one here.
    repository: the folder that it serves.
    release: the version of it that is served.
    folder: the server's own, for as long as it runs.
    ready: whether every model answered when it was last checked. The HTTP health endpoints say the same.
    internal: tritonserver's own endpoints, behind the proxy.
    """

    def __init__(
        self,
        repository: Path,
        options: ServerOptions | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Read the repository and choose ports, without starting anything.

        Args:
            repository: the folder that `deploy.build_engine` wrote.
            options: where to listen and for whom, by default `ServerOptions()`.
            log: takes each line that the server, its workers and the proxy print.

        Raises:
            ServerError: where this server could not load the repository.
        """
        self.options = (options or ServerOptions()).with_ports()
        self.repository, self._given_log = repository, log
        self.release = Release(repository, self.options)
        # Of every version that has been served, since the last answers of one come after the first of the next.
        self._hashes = self.release.hashes
        self.ready = False
        self._process: ServerProcess | None = None
        self.folder = Path(gettempdir(), new_name())
        self.internal = InternalEndpoint(self.folder)
        self._probe = Probe(self.internal, self.release.contract)
        workers = {name: count_of(config) for name, config in self.release.configs.items()}
        self._admission = Admission(workers, self.options.max_request_bytes)
        self._resources = ExitStack()

    @property
    def grpc_url(self) -> str:
        """Return host:port of the gRPC endpoint, as a client on this machine reaches it."""
        return self._url(self.options.grpc_port)

    @property
    def http_url(self) -> str:
        """Return host:port of the HTTP proxy."""
        return self._url(self.options.http_port)

    @property
    def metrics_url(self) -> str:
        """Return host:port of the Prometheus metrics, under /metrics."""
        return self._url(self.options.metrics_port)

    def start(self) -> None:
        """Start the proxy and the process, load every model and have each answer.

        Raises ServerError, with nothing left running.
        """
        remove_leftovers()
        try:
            self._make_folder()
            lay_out_backends(self.folder)
            # Before the models are loaded: health then answers "not ready" rather than not at all.
            self._start_proxy()
            link = self.folder / REPOSITORY
            link.symlink_to(self.repository.resolve())
            command = server_command(link, self.folder, self.internal, f"{self.folder.name}-")
            variables = environment() | self.internal.environment()
            before = environments()
            self._process = ServerProcess(command, variables, self._log, folder=self.folder)
            self._process.wait_started(START_SECONDS)
            self._load_all(self.release, self._probe)
            note_environments(self.folder, before)
            self.ready = True
        # Ctrl-C as well: no process, thread or folder may stay behind.
        except BaseException as error:
            reason = self._process.failure() if self._process else ""
            if self._process:
                # Nothing was asked of it that is to be finished.
                self._process.stop(0.0)
                self._process = None
            self.stop()
            if isinstance(error, ServerError) and reason:
                # A service that could not start is why the models could not be reached.
                raise ServerError(reason) from None
            raise

    def replace_workers(self, name: str) -> None:
        """Replace the workers of one model.

        Raises ServerError where the new ones do not answer.
        """
        # A plain load would keep the workers that the model has, dead or not.
        kill_workers(self.pid, name)
        self.internal.unload(name, UNLOAD_SECONDS)
        self._admission.give_up(name)
        self._load(self.release.configs[name], self._probe)

    def roll_out(self) -> str:
        """Load what the repository holds by now, move traffic to it, unload the old, and say what is served.

        Raises ServerError where that cannot be served. What was served before is served throughout.
        """
        before, fresh = self.release, Release(self.repository, self.options)
        if fresh.configs == before.configs:
            fresh.close()
            return f"nothing has changed: {before}"
        if any(self._hashes.get(version, sha256) != sha256 for version, sha256 in fresh.hashes.items()):
            fresh.close()
            message = "has versions of the same numbers as those served, and other content: start the server again"
            raise ServerError(f"{self.repository} was made anew: it {message}")
        self._hashes |= fresh.hashes
        probe = Probe(self.internal, fresh.contract)
        try:
            # tritonserver moves a model's requests once the new version is up, and not at all where it does not load.
            self._load_all(fresh, probe)
        # Also what the machine lacks, such as memory or descriptors (OSError).
        except Exception:
            fresh.close()
            # One of the two models may have changed already. For one that has not, this does nothing.
            self._load_all(before, self._probe)
            raise
        self.release, self._probe = fresh, probe
        self._wait_for_old_workers()
        before.close()
        return f"serving {fresh}; before: {before}"

    def check(self, name: str) -> None:
        """Return if all workers of a model exist and it answers an inference, else raise ServerError."""
        # With one of several workers dead, an inference may go to a live one.
        config = self.release.configs[name]
        workers = workers_of(self.pid, name, version_of(config))
        if len(workers) < count_of(config):
            raise ServerError(f"model {name} has {len(workers)} of {count_of(config)} workers")
        begin, computed = time.monotonic(), cpu_seconds(workers)
        try:
            self._probe.check(name)
        except ServerError:
            # A large request takes longer than a probe waits. Its worker computes, which one that hangs does not, and
            # is not late.
            progress = cpu_seconds(workers) - computed > LEAST_PROGRESS * (time.monotonic() - begin)
            if not progress or not self._admission.busy(name):
                raise

    def stop(self) -> bool:
        """Let requests in flight finish, then end.

        Returns False where the server had to be killed.
        """
        answering, self.ready = self.ready, False
        try:
            # What waits in the proxy was accepted as well. A server that does not answer is not waited for.
            seconds = self._drain() if answering and self.running else DRAIN_SECONDS
            return self._process.stop(seconds + KILL_AFTER_SECONDS) if self._process else True
        finally:
            self._process = None
            # The guardian has done it unless it was killed.
            guardian.remove(self.folder.name, str(self.folder))
            # The proxy goes after the server: it still writes the responses of requests that the server finished.
            self._resources.close()

    def __enter__(self) -> "Server":
        try:
            self.start()
        except BaseException:
            # Python calls no `__exit__` then, and builds would take the version for one that is served.
            self.release.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self.release.close()

    @property
    def pid(self) -> int:
        """Return the server's process id.

        Raises ServerError where it is not running.
        """
        if self._process is None or not self._process.running:
            raise ServerError(self._process.failure() if self._process else "the server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Return whether the server's process exists."""
        return self._process is not None and self._process.running

    def _log(self, line: str) -> None:
        # A log that fails must stop neither the reader of the server's output nor a response.
        with suppress(Exception):
            self._given_log(line)

    def _drain(self) -> float:
        try:
            return self._admission.drain(DRAIN_SECONDS)
        except KeyboardInterrupt:
            # A second request to stop ends the waiting.
            return 0.0

    def _make_folder(self) -> None:
        try:
            # Only this user may enter it, whatever the umask.
            self.folder.mkdir(mode=0o700)
        except OSError as error:
            raise ServerError(f"the server's folder {self.folder} cannot be made: {error.strerror}") from None
        if len(str(self.internal.metrics)) > LONGEST_SOCKET:
            raise ServerError(f"{self.folder} is too long a path for sockets: set TMPDIR to a shorter one")
        # tritonserver hands its paths to a shell.
        if PLAIN.fullmatch(str(self.folder)) is None:
            raise ServerError(f"{self.folder} may hold letters, digits and ./_+@=- alone: set TMPDIR to such a folder")

    def _start_proxy(self) -> None:
        # A new one for each start, since the supervisor restarts a server. It reads `ready` at each request.
        proxy = Proxy(
            self.options,
            self.internal,
            admission=self._admission,
            ready=lambda: self.ready,
            hash_of=lambda model, version: self._hashes.get((model, version), ""),
            log=self._log,
        )
        proxy.start()
        self._resources.callback(proxy.stop)

    def _load_all(self, release: Release, probe: Probe) -> None:
        # All at once, since each load compiles a network.
        pool, stopped = ThreadPoolExecutor(), False
        try:
            list(pool.map(lambda config: self._load(config, probe), release.configs.values()))
        except KeyboardInterrupt:
            # A load that has begun ends with the server's process.
            stopped = True
            raise
        finally:
            # Where one fails the others are waited for: what loads the older version again must be the last.
            pool.shutdown(wait=not stopped, cancel_futures=stopped)

    def _load(self, config: schema.ModelConfig, probe: Probe) -> None:
        self.internal.load(config)
        probe.first(config.name)
        self._admission.started(config.name, count_of(config))

    def _wait_for_old_workers(self) -> None:
        """Wait until the workers of earlier versions have answered what they have and ended, for a while."""
        count = sum(count_of(config) for config in self.release.configs.values())
        deadline = time.monotonic() + OLD_WORKERS_SECONDS
        with suppress(OSError):
            while len(children_of(self.pid)) > count and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    def _url(self, port: int) -> str:
        # These are every interface, and no address that a client can connect to everywhere.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.options.address, self.options.address)
        return replace(self.options, address=host).endpoint(port)


def count_of(config: schema.ModelConfig) -> int:
    """Return how many workers a configuration asks for."""
    return int(config.instance_group[0].count)
