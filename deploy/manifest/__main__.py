"""Writes what a cluster (KServe) or a machine with a GPU (Docker Compose) needs to serve the GPU repository."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import text_format

from data_pipeline.files import write_whole
from deploy.contract import NETWORK_MODEL, PIPELINE_MODEL, Contract
from deploy.errors import BuildError
from deploy.files import GPU_DIRECTORY, VERSION, read_config
from deploy.manifest.compose import PROMETHEUS_FILE, project, prometheus_configuration
from deploy.manifest.deployment import TAG, Deployment
from deploy.manifest.kserve import inference_service
from deploy.repository.gpu import PLAN

# What Kubernetes and Compose both take for a name.
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where the files are written, 1 with one line where they cannot be, 2 for usage."""
    options = parse_arguments(arguments)
    try:
        deployment = read_deployment(options)
        options.output.mkdir(parents=True, exist_ok=True)
        for name, document in documents(options.format, deployment, options.output).items():
            text = yaml.safe_dump(document, sort_keys=False)
            write_whole(options.output / name, text.encode())
            print(f"wrote {options.output / name}")
    except (BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not (options.repository / NETWORK_MODEL / VERSION / PLAN).is_file():
        print(f"the repository has no {PLAN} yet: build it on the GPU with deploy.build_engine --target tensorrt")
    return 0


def documents(kind: str, deployment: Deployment, folder: Path) -> dict[str, dict[str, Any]]:
    """Contents by file name."""
    if kind == "kserve":
        return {"inferenceservice.yaml": inference_service(deployment)}
    return {"compose.yaml": project(deployment, folder), PROMETHEUS_FILE: prometheus_configuration()}


def read_deployment(options: argparse.Namespace) -> Deployment:
    """The choices, with the concurrency that the repository's batch size suggests; raises BuildError."""
    try:
        config = read_config(options.repository / PIPELINE_MODEL)
        contract = Contract.from_json(config.parameters["contract"].string_value)
    except (OSError, ValueError, text_format.ParseError):
        config = None
    if config is None or config.platform != "ensemble":
        raise BuildError(
            f"{options.repository} is no GPU repository: write one with python -m deploy.build_engine --repository gpu"
        )
    # One batch computes while the next gathers.
    concurrency = options.concurrency or 2 * contract.max_batch
    return Deployment(options.name, options.repository, options.tag, concurrency, options.storage, options.max_replicas)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="python -m deploy.manifest", description=__doc__)
    parser.add_argument("--format", required=True, choices=("kserve", "compose"))
    parser.add_argument("--repository", type=Path, default=Path("build") / GPU_DIRECTORY)
    parser.add_argument("--output", type=Path, default=Path("build/manifest"), metavar="DIR")
    parser.add_argument("--name", default="resformer", help="of the service (default: resformer)")
    parser.add_argument("--tag", default=TAG, help=f"of NVIDIA's server image (default: {TAG})")
    parser.add_argument("--concurrency", type=int, help="requests in flight a replica (default: two batches)")
    parser.add_argument("--max-replicas", type=int, default=4)
    parser.add_argument(
        "--storage",
        default=f"pvc://resformer/{GPU_DIRECTORY}",
        help="URI of the repository for KServe (pvc://, s3://, ...)",
    )
    options = parser.parse_args(arguments)
    if not NAME.fullmatch(options.name):
        parser.error(f"--name must be lower-case letters, digits and hyphens, got {options.name!r}")
    for name in ("concurrency", "max_replicas"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
    return options


if __name__ == "__main__":
    sys.exit(main())
