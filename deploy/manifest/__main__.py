"""Write what a cluster (KServe) or a machine with a GPU (Docker Compose) needs to serve the GPU repository."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import text_format

from data_pipeline.command_line import new_parser, positive, run_command
from data_pipeline.files import write_whole
from deploy.contract import NETWORK_MODEL, PIPELINE_MODEL, Contract
from deploy.errors import BuildError
from deploy.files import GPU_DIRECTORY, VERSION, read_config
from deploy.manifest import PROMETHEUS_FILE, TAG, Deployment, inference_service, project, prometheus_configuration
from deploy.repository.gpu import PLAN

# What both Kubernetes and Compose accept as a name.
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
TAG_OF_IMAGE = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
URI = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\\]+")
EXAMPLES = """examples:
  python -m deploy.manifest --format compose
  python -m deploy.manifest --format kserve --storage s3://bucket/model_repository_gpu --max-replicas 8
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 is done, 1 failed with one line, 2 misused.
    """
    options = parse_arguments(arguments)
    return run_command(lambda: write_manifest(options), BuildError, OSError)


def write_manifest(options: argparse.Namespace) -> None:
    """Write the files and say what is still missing to run them."""
    deployment = read_deployment(options)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, document in documents(options.format, deployment, options.output).items():
        # Unsorted: the usual order of Kubernetes and Compose files is easier to read.
        write_whole(options.output / name, yaml.safe_dump(document, sort_keys=False))
        print(f"wrote {options.output / name}")
    # No fault: a plan is built on the server's GPU, which this machine may not have.
    if not (options.repository / NETWORK_MODEL / VERSION / PLAN).is_file():
        print(f"the repository has no {PLAN} yet: build it on the GPU with deploy.build_engine --target tensorrt")


def documents(kind: str, deployment: Deployment, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the contents of the files for `folder`, by file name."""
    if kind == "kserve":
        return {"inferenceservice.yaml": inference_service(deployment)}
    return {"compose.yaml": project(deployment, folder), PROMETHEUS_FILE: prometheus_configuration()}


def read_deployment(options: argparse.Namespace) -> Deployment:
    """Return the choices, with the concurrency that the repository's batch size suggests.

    Raises BuildError where the repository is missing or not one for a GPU.
    """
    try:
        config = read_config(options.repository / PIPELINE_MODEL)
        contract = Contract.from_json(config.parameters["contract"].string_value)
    except (OSError, ValueError, text_format.ParseError):
        config = None
    # The ensemble tells a GPU repository from one for a CPU, whose model has the same name.
    if config is None or config.platform != "ensemble":
        raise BuildError(
            f"{options.repository} is no GPU repository: write one with python -m deploy.build_engine --repository gpu"
        )
    return Deployment(
        name=options.name,
        repository=options.repository,
        tag=options.tag,
        # One batch computes while the next gathers.
        concurrency=options.concurrency or 2 * contract.max_batch,
        storage=options.storage,
        replicas=options.max_replicas,
    )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, or exit with 2 where it is wrong."""
    parser = new_parser("deploy.manifest", __doc__, EXAMPLES)
    parser.add_argument("--format", required=True, choices=("kserve", "compose"), help="what to write the files for")
    parser.add_argument("--repository", type=Path, default=Path("build") / GPU_DIRECTORY, help="of a GPU server")
    parser.add_argument("--output", type=Path, default=Path("build/manifest"), metavar="DIR", help="where they go")
    parser.add_argument("--name", default="resformer", help="of the service (default: resformer)")
    parser.add_argument("--tag", default=TAG, help=f"of NVIDIA's server image (default: {TAG})")
    parser.add_argument("--concurrency", type=positive(int), help="requests in flight a replica (default: two batches)")
    parser.add_argument("--max-replicas", type=positive(int), default=4, help="most replicas at once (default: 4)")
    parser.add_argument(
        "--storage",
        default=f"pvc://resformer/{GPU_DIRECTORY}",
        help="URI of the repository for KServe (pvc://, s3://, ...)",
    )
    options = parser.parse_args(arguments)
    if not NAME.fullmatch(options.name):
        parser.error(f"--name must be lower-case letters, digits and hyphens, got {options.name!r}")
    if not TAG_OF_IMAGE.fullmatch(options.tag):
        parser.error(f"--tag must be letters, digits, dots and hyphens, got {options.tag!r}")
    if not URI.fullmatch(options.storage):
        parser.error(f"--storage must be a URI such as s3://bucket/folder, got {options.storage!r}")
    return options


if __name__ == "__main__":
    sys.exit(main())
