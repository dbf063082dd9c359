"""The command line of tritonserver."""

from pathlib import Path

from deploy.contract import GRPC_TOKEN_HEADER
from deploy.server.internal_endpoint import ADDRESS, PrivateSide
from deploy.server.options import ServerOptions
from deploy.server.process.installation import server_root

DRAIN_SECONDS = 12
# What a client needs; the rest of gRPC is closed to everyone, and health is open.
_ASKED_FOR_TOKEN = "inference,metadata,model-config,statistics"


def command(
    repository: Path, backends: Path, options: ServerOptions, private: PrivateSide, metrics_port: int, regions: str
) -> list[str]:
    """How the server is started: gRPC as `options` say, HTTP and metrics for the front only, models loaded by us.

    regions: what the names of its shared memory begin with.
    """
    return [
        str(server_root() / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={regions}",
        "--disable-auto-complete-config",
        "--allow-gpu-metrics=false",
        "--log-format=ISO8601",
        f"--exit-timeout-secs={DRAIN_SECONDS}",
        f"--grpc-address={options.address}",
        f"--grpc-port={options.grpc_port}",
        f"--metrics-address={ADDRESS}",
        f"--metrics-port={metrics_port}",
        *private.arguments(),
        *_guards(options),
    ]


def _guards(options: ServerOptions) -> list[str]:
    guards = []
    if options.tls:
        certificate, key = options.tls.certificate, options.tls.key
        guards += ["--grpc-use-ssl=true", f"--grpc-server-cert={certificate}", f"--grpc-server-key={key}"]
    if options.token:
        name = GRPC_TOKEN_HEADER.removeprefix("triton-grpc-protocol-")
        guards += [f"--grpc-restricted-protocol={_ASKED_FOR_TOKEN}:{name}={options.token}"]
    return guards
