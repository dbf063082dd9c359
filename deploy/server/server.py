"""Run a server from a program: `with Server(repository) as server: ...`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import gettempdir
from types import TracebackType

from deploy.contract import PIPELINE_MODEL
from deploy.errors import ServerError
from deploy.server.internal_endpoint import InternalEndpoint, Probe
from deploy.server.model_configs import read_contract, read_repository, tuned
from deploy.server.options import ServerOptions
from deploy.server.process import DRAIN_SECONDS, ServerProcess, guardian, server_command
from deploy.server.process.installation import environment, lay_out_backends
from deploy.server.process.leftovers import new_name, remove_leftovers
from deploy.server.process.workers import kill_workers, workers_of
from deploy.server.proxy import Proxy

START_SECONDS = 60.0
# The server gives up draining by itself first, and says so in its log.
KILL_AFTER_SECONDS = 2.0
UNLOAD_SECONDS = 5.0
LONGEST_SOCKET = 107  # bytes of a socket's path on Linux


class Server:
    """Run the real `tritonserver` over a model repository.

    Once the `with` block is entered, or `start` has returned, every model has answered an inference.

    options: where it listens. A port that was given as 0 is a real one here.
    configs: the models' configurations by name, as they are loaded.
    contract: what the served model takes and gives.
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
        self.configs = {name: tuned(config, self.options) for name, config in read_repository(repository).items()}
        self.contract = read_contract(self.configs[PIPELINE_MODEL])
        self._repository, self._given_log = repository, log
        self.ready = False
        self._process: ServerProcess | None = None
        self._folder = Path(gettempdir(), new_name())
        self.internal = InternalEndpoint(self._folder)
        self._probe = Probe(self.internal, self.contract)
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
            lay_out_backends(self._folder)
            # Before the models are loaded: health then answers "not ready" rather than not at all.
            self._start_proxy()
            command = server_command(self._repository.resolve(), self._folder, self.internal, f"{self._folder.name}-")
            variables = environment() | self.internal.environment()
            self._process = ServerProcess(command, variables, self._log, folder=self._folder)
            self._process.wait_started(START_SECONDS)
            # All at once, since each load compiles a network.
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._load, self.configs))
            self.ready = True
        # Ctrl-C as well: no process, thread or folder may stay behind.
        except BaseException as error:
            reason = self._process.failure() if self._process else ""
            self.stop()
            if isinstance(error, ServerError) and reason:
                # A service that could not start is why the models could not be reached.
                raise ServerError(reason) from None
            raise

    def reload(self, name: str) -> None:
        """Replace the workers of one model.

        Raises ServerError where the new ones do not answer.
        """
        # A plain load would keep the workers that the model has, dead or not.
        kill_workers(self.pid, name)
        self.internal.unload(name, UNLOAD_SECONDS)
        self._load(name)

    def check(self, name: str) -> None:
        """Return if all workers of a model exist and it answers an inference, else raise ServerError."""
        # With one of several workers dead, an inference may go to a live one.
        expected = self.configs[name].instance_group[0].count
        present = len(workers_of(self.pid, name))
        if present < expected:
            raise ServerError(f"model {name} has {present} of {expected} workers")
        self._probe.check(name)

    def stop(self) -> bool:
        """Let requests in flight finish, then end.

        Returns False where the server had to be killed.
        """
        self.ready = False
        try:
            return self._process.stop(DRAIN_SECONDS + KILL_AFTER_SECONDS) if self._process else True
        finally:
            self._process = None
            # The guardian has done it unless it was killed.
            guardian.remove(self._folder.name, str(self._folder))
            # The proxy goes after the server: it still writes the responses of requests that the server finished.
            self._resources.close()

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

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

    def _make_folder(self) -> None:
        try:
            # Only this user may enter it, whatever the umask.
            self._folder.mkdir(mode=0o700)
        except OSError as error:
            raise ServerError(f"the server's folder {self._folder} cannot be made: {error.strerror}") from None
        if len(str(self.internal.metrics)) > LONGEST_SOCKET:
            raise ServerError(f"{self._folder} is too long a path for sockets: set TMPDIR to a shorter one")

    def _start_proxy(self) -> None:
        # A new one for each start, since the supervisor restarts a server. It reads `ready` at each request.
        proxy = Proxy(self.options, self.internal, ready=lambda: self.ready, log=self._log)
        proxy.start()
        self._resources.callback(proxy.stop)

    def _load(self, name: str) -> None:
        self.internal.load(self.configs[name])
        self._probe.first(name)

    def _url(self, port: int) -> str:
        # 0.0.0.0 is every interface, and not an address that a client can connect to everywhere.
        host = "127.0.0.1" if self.options.address == "0.0.0.0" else self.options.address
        return f"{host}:{port}"
