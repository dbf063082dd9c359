"""Serve a model repository until told to stop."""

import argparse
import gc
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.command_line import new_parser, positive, run_command
from deploy.access import read_token
from deploy.server import ServerError, ServerOptions, Tls
from deploy.server.log import Log

if TYPE_CHECKING:
    from deploy.server import Server

# gRPC counts the bytes of a message, which are a request and 1 MiB, with 31 bits.
MOST_MEGABYTES = 2046

# Whatever imports gRPC is imported where it is used, since its engine has to be chosen first.
EXAMPLES = """examples:
  python -m deploy.serve
  python -m deploy.serve --repository build/mine/model_repository --throughput --http-port 9000 --grpc-port 9001
  python -m deploy.serve --repository build/mine/model_repository --reload
  python -m deploy.serve --address 0.0.0.0 --tls-certificate server.pem --tls-key key.pem --token-file token.txt
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 after SIGTERM or Ctrl-C, 1 failed with one line, 2 misused.
    """
    options = parse_arguments(arguments)
    if options.reload:
        return run_command(lambda: reload(options.repository), OSError, ServerError)
    # SIGTERM raises KeyboardInterrupt as Ctrl-C does, so that a stop during the start is orderly too. A second signal
    # ends the wait for requests in flight.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # It would end this process before the server listens to it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _open_standard_files()
    _raise_limit_of_files()
    _prepare_grpc()
    from deploy.server import Server

    with _log_of_everything() as log:
        return run_command(
            lambda: run(Server(options.repository, server_options(options), log.server_line), log), OSError, ServerError
        )


def server_options(options: argparse.Namespace) -> ServerOptions:
    """Return the command line's options as the server takes them.

    Raises OSError where the token's file cannot be read, and ServerError where it holds no token.
    """
    try:
        token = read_token(options.token_file) if options.token_file else ""
    except ValueError as error:
        raise ServerError(str(error)) from None
    return ServerOptions(
        address=options.address,
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        metrics_port=options.metrics_port,
        tuning=options.tuning,
        max_request_bytes=options.max_request_mb * 2**20,
        tls=Tls(options.tls_certificate, options.tls_key) if options.tls_certificate else None,
        token=token,
        page=options.page,
    )


def run(server: "Server", log: Log) -> int:
    """Start the server, print where it listens, watch it until interrupted, and return the exit code."""
    from deploy.server import Supervisor
    from deploy.server.reload import Reloads

    reloads = Reloads()
    try:
        server.start()
        announce(f"serving on gRPC {server.grpc_url}, HTTP {server.http_url}, metrics {server.metrics_url}")
        if server.options.page:
            scheme = "https" if server.options.tls else "http"
            announce(f"open {scheme}://{server.http_url}/ in a browser to try it on images")
        if server.release.advice:
            log.event(server.release.advice)
        # What is loaded stays. The garbage collector would walk over all of it now and then, and requests would wait.
        gc.collect()
        gc.freeze()
        Supervisor(server, log.event, reloads).watch()
    except KeyboardInterrupt:
        announce("stopping: requests in flight are answered first")
        return 0 if server.stop() else 1
    finally:
        server.stop()
        server.release.close()


def reload(repository: Path) -> int:
    """Ask the running servers of a repository to load what it holds by now, and return the exit code.

    Raises ServerError where there is none, and where one goes on with what it had.
    """
    from deploy.server.reload import request_reload

    outcomes = request_reload(repository)
    for outcome in outcomes:
        print(outcome.message, file=sys.stdout if outcome.succeeded else sys.stderr)
    return 0 if all(outcome.succeeded for outcome in outcomes) else 1


def announce(line: str) -> None:
    """Print a line at once, since a program that started this one may wait for it. Nobody has to read it."""
    try:
        print(line, flush=True)
    except OSError:
        # What could not be written would be tried again at the end, and fail then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _open_standard_files() -> None:
    """Open what the caller has closed of stdin, stdout and stderr, or a client's connection would take its place."""
    # The lowest number that is free is given out first.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    sys.stdout = sys.stdout or os.fdopen(number, "w")


def _raise_limit_of_files() -> None:
    """Allow this process as many open files as it may allow itself: each connection is one or two."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _prepare_grpc() -> None:
    """Let gRPC read its sockets in the threads that wait for them, and keep it from writing to stderr."""
    # It has no other switches, and reads these when it is imported, which `Server` does. The first one saves each call
    # two changes of thread.
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
    # It would write to stderr itself: lines that are no JSON, at each client that fails in its handshake. Where nobody
    # reads them, it would wait.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


@contextmanager
def _log_of_everything() -> Iterator[Log]:
    """Write JSON to stderr, also what libraries log or warn of, and what ends a thread."""

    def uncaught(hook: threading.ExceptHookArgs) -> None:
        logging.getLogger("thread").error("a thread has ended", exc_info=hook.exc_value)

    def ignored(hook: "sys.UnraisableHookArgs") -> None:
        logging.getLogger("python").error(hook.err_msg or "an exception was ignored", exc_info=hook.exc_value)

    # Without a stderr its number may by now be that of something else.
    log = Log(2 if sys.__stderr__ else os.open(os.devnull, os.O_WRONLY))
    before, root = (threading.excepthook, sys.unraisablehook), logging.getLogger()
    threading.excepthook, sys.unraisablehook = uncaught, ignored
    root.addHandler(log)
    logging.captureWarnings(True)
    try:
        yield log
    finally:
        logging.captureWarnings(False)
        root.removeHandler(log)
        threading.excepthook, sys.unraisablehook = before
        log.close()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, or exit with 2 where it is wrong."""
    parser = new_parser("deploy.serve", __doc__, EXAMPLES)
    parser.add_argument(
        "--repository", type=Path, default=Path("build/model_repository"), metavar="DIR", help="what the build wrote"
    )
    parser.add_argument(
        "--reload", action="store_true", help="have the server that serves DIR load what a later build has put there"
    )
    parser.add_argument("--address", default="127.0.0.1", help="interface to listen on, 0.0.0.0 for all of them")
    for side, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        parser.add_argument(
            f"--{side}-port", type=port_number, default=port, help=f"0 picks a free one (default: {port})"
        )
    tuning = parser.add_mutually_exclusive_group()
    ends = (
        ("latency", "quickest answer: one worker with every core"),
        ("throughput", "most answers: one worker a core"),
    )
    for name, meaning in ends:
        tuning.add_argument(
            f"--{name}",
            dest="tuning",
            action="store_const",
            const=name,
            help=f"{meaning}, or what deploy.tune has measured",
        )
    parser.set_defaults(tuning="tuned")
    size = positive(int, MOST_MEGABYTES)
    parser.add_argument("--max-request-mb", type=size, default=64, help="largest request (default: 64)")
    parser.add_argument(
        "--tls-certificate", type=Path, metavar="FILE", help="PEM file, which makes HTTP and gRPC encrypted"
    )
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM file of the certificate's private key")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token that clients must send")
    parser.add_argument("--no-page", dest="page", action="store_false", help="serve no page to look at in a browser")
    options = parser.parse_args(arguments)
    if bool(options.tls_certificate) != bool(options.tls_key):
        parser.error("--tls-certificate and --tls-key go together")
    return options


def port_number(text: str) -> int:
    """Parse a TCP port, 0 to 65535."""
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, got {port}")
    return port


if __name__ == "__main__":
    sys.exit(main())
