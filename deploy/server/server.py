"""The server as a program uses it: `with Server(repository) as server: ...`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from deploy.contract import PIPELINE_MODEL
from deploy.server.errors import ServerError
from deploy.server.internal_endpoint import ADDRESS, ModelControl, PrivateSide
from deploy.server.model_configs import contract_of, read_repository, tuned
from deploy.server.options import ServerOptions, free_ports
from deploy.server.probe import Probe
from deploy.server.process.child import ServerProcess
from deploy.server.process.command import DRAIN_SECONDS, command
from deploy.server.process.installation import environment, lay_out_backends
from deploy.server.process.shared_memory import new_prefix, remove_leftovers, remove_regions
from deploy.server.process.workers import kill_workers, workers_of
from deploy.server.proxy.app import Front

START_SECONDS = 60.0
# The server gives up draining by itself first, and says so in its log.
KILL_AFTER_SECONDS = 2.0
UNLOAD_SECONDS = 5.0


class Server:
    """The real `tritonserver` over a model repository; once entered, every model has answered an inference.

    ready: whether every model answered when it was last checked; the HTTP side's health says the same.
    private: tritonserver's own HTTP side, behind the front.
    log: takes each line that the server, its workers and the front print.  Raises ServerError where it cannot start.
    """

    def __init__(
        self,
        repository: Path,
        options: ServerOptions | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.options = (options or ServerOptions()).with_ports()
        self.configs = {name: tuned(config, self.options) for name, config in read_repository(repository).items()}
        self.contract = contract_of(self.configs[PIPELINE_MODEL])
        self._repository, self._log = repository, log
        self.ready = False
        self._process: ServerProcess | None = None
        self._regions = new_prefix()
        private_port, self._metrics_port = free_ports(ADDRESS, 2)
        self.private = PrivateSide(private_port)
        self._probe, self._control = Probe(self.private, self.contract), ModelControl(self.private)
        self._resources = ExitStack()

    @property
    def grpc_url(self) -> str:
        """host:port of the gRPC side, as a client on this machine reaches it."""
        return self._url(self.options.grpc_port)

    @property
    def http_url(self) -> str:
        """host:port of the HTTP side."""
        return self._url(self.options.http_port)

    @property
    def metrics_url(self) -> str:
        """host:port of the Prometheus metrics, under /metrics."""
        return self._url(self.options.metrics_port)

    def start(self) -> None:
        """Start the front and the process, load every model and have each answer."""
        remove_leftovers()
        backends = Path(self._resources.enter_context(TemporaryDirectory(prefix="resformer-server-")))
        try:
            lay_out_backends(backends)
            self._start_front()
            arguments = command(
                self._repository, backends, self.options, self.private, self._metrics_port, self._regions
            )
            self._process = ServerProcess(arguments, environment(), self._log)
            self._process.wait_started(START_SECONDS)
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._load, self.configs))
            self.ready = True
        except BaseException as error:
            reason = self._process.failure() if self._process else ""
            self.stop()
            if isinstance(error, ServerError) and reason:
                # A service that could not start is why the models could not be reached.
                raise ServerError(reason) from None
            raise

    def reload(self, name: str) -> None:
        """Replace the workers of one model: a plain load would keep those it has, dead or not."""
        kill_workers(self.pid, name)
        self._control.unload(name, UNLOAD_SECONDS)
        self._load(name)

    def check(self, name: str) -> None:
        """Return if all workers of a model are there and it answers an inference, else raise ServerError."""
        expected = self.configs[name].instance_group[0].count
        present = len(workers_of(self.pid, name))
        if present < expected:
            raise ServerError(f"model {name} has {present} of {expected} workers")
        self._probe.check(name)

    def stop(self) -> bool:
        """Let requests in flight finish, then end; False where it had to be killed."""
        self.ready = False
        try:
            return self._process.stop(DRAIN_SECONDS + KILL_AFTER_SECONDS) if self._process else True
        finally:
            self._process = None
            remove_regions(self._regions)
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
        """The process id of the server; raises ServerError where it is not running."""
        if self._process is None or not self._process.running:
            raise ServerError(self._process.failure() if self._process else "the server is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._process is not None and self._process.running

    def _start_front(self) -> None:
        front = Front(self.options, self.private, self._metrics_port, lambda: self.ready, self._log)
        front.start()
        self._resources.callback(front.stop)

    def _load(self, name: str) -> None:
        self._control.load(self.configs[name])
        self._probe.first(name)

    def _url(self, port: int) -> str:
        host = "127.0.0.1" if self.options.address == "0.0.0.0" else self.options.address
        return f"{host}:{port}"
