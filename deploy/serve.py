"""Serves a model repository until told to stop."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.server import Server, ServerError, ServerOptions, Supervisor, Tls
from deploy.server.log import log_event, log_server_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 after SIGTERM or Ctrl-C, 1 where the server cannot start or be kept answering, 2 for usage."""
    choices = parse_arguments(arguments)
    # Both signals raise KeyboardInterrupt, so that a stop during the start is orderly too; a second one stops draining.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server = Server(choices.repository, server_options(choices), log_server_line)
        return run(server)
    except (OSError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def server_options(choices: argparse.Namespace) -> ServerOptions:
    """The command line's choices as the server takes them; raises OSError where the token's file cannot be read."""
    return ServerOptions(
        address=choices.address,
        http_port=choices.http_port,
        grpc_port=choices.grpc_port,
        metrics_port=choices.metrics_port,
        tuning=choices.tuning,
        max_request_bytes=choices.max_request_mb * 2**20,
        tls=Tls(choices.tls_certificate, choices.tls_key) if choices.tls_certificate else None,
        token=choices.token_file.read_text().strip() if choices.token_file else "",
    )


def run(server: Server) -> int:
    """Start, say where, and watch until interrupted."""
    try:
        server.start()
        print(f"serving on gRPC {server.grpc_url}, HTTP {server.http_url}, metrics {server.metrics_url}", flush=True)
        Supervisor(server, log_event).watch()
    except KeyboardInterrupt:
        print("stopping: requests in flight are answered first", flush=True)
        return 0 if server.stop() else 1
    finally:
        server.stop()


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m deploy.serve", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("build/model_repository"))
    parser.add_argument("--address", default="127.0.0.1", help="interface to listen on; 0.0.0.0 is all of them")
    for side, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        parser.add_argument(f"--{side}-port", type=port_number, default=port, help="0 picks a free one")
    tuning = parser.add_mutually_exclusive_group()
    for name, meaning in (("latency", "one worker with every core (default)"), ("throughput", "one worker a core")):
        tuning.add_argument(f"--{name}", dest="tuning", action="store_const", const=name, help=meaning)
    parser.set_defaults(tuning="latency")
    parser.add_argument("--max-request-mb", type=int, default=64, help="largest request (default: 64)")
    parser.add_argument("--tls-certificate", type=Path, metavar="FILE", help="PEM; HTTP and gRPC are then encrypted")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM; the certificate's private key")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="holds the token that clients must send")
    options = parser.parse_args(arguments)
    if bool(options.tls_certificate) != bool(options.tls_key):
        parser.error("--tls-certificate and --tls-key go together")
    if options.max_request_mb < 1:
        parser.error(f"--max-request-mb must be 1 or more, got {options.max_request_mb}")
    return options


def port_number(text: str) -> int:
    """A TCP port, 0 to 65535."""
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, got {port}")
    return port


if __name__ == "__main__":
    sys.exit(main())
