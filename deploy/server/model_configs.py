"""Read and check a repository's model configurations, and adapt them to this machine."""

import os
import stat
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from deploy.content import FILES_HASH, HASH, read_version, version_fingerprint
from deploy.contract import PIPELINE_MODEL, Contract
from deploy.errors import ServerError
from deploy.files import CONFIGURATION, config_fingerprint, read_config, version_of
from deploy.server.options import Workers


def read_repository(repository: Path) -> dict[str, schema.ModelConfig]:
    """Read the configuration of every model, by name.

    Raises ServerError where a server without a GPU could not load the repository.
    """
    if not repository.is_dir():
        raise ServerError(f"no model repository at {repository}: run python -m deploy.build_engine first")
    configs: dict[str, schema.ModelConfig] = {}
    for file in sorted(repository.glob(f"*/{CONFIGURATION}")):
        try:
            config = read_config(file.parent)
        except (OSError, ValueError, text_format.ParseError) as error:
            raise ServerError(f"{file} cannot be read: {error}") from None
        # nvidia-pytriton's server has the Python backend and no other.
        if config.backend != "python":
            raise ServerError(
                f"{file.parent} needs the server's {config.backend or config.platform} backend, and a GPU"
            )
        # Without this file the server would wait forever for a worker that has nothing to run.
        if not any(file.parent.glob("*/model.py")):
            raise ServerError(f"{file.parent} holds no model.py: build the repository again with deploy.build_engine")
        if config.name != file.parent.name:
            raise ServerError(f"{file.parent} is a copy of the model {config.name}: move it out of the repository")
        check_owner(file.parent)
        check_version(file.parent, config)
        configs[config.name] = config
    if PIPELINE_MODEL not in configs:
        raise ServerError(f"{repository} holds no model {PIPELINE_MODEL}: build it again with deploy.build_engine")
    return configs


def check_owner(folder: Path) -> None:
    """Raise ServerError where any user could change the model, which is code, or what stands beside it."""
    beside = (path for path in folder.parent.iterdir() if path.is_file())
    for path in (folder.parent, *beside, folder, *folder.rglob("*")):
        if path.stat().st_mode & stat.S_IWOTH:
            raise ServerError(f"{path} can be changed by every user of this machine: run chmod -R o-w {folder.parent}")
    inner = folder.parent.resolve()
    for outer in inner.parents:
        status = outer.stat()
        # In a folder for all, as /tmp, only the owner of an entry can put another in its place.
        safe = status.st_mode & stat.S_ISVTX and inner.stat().st_uid in (0, os.geteuid(), status.st_uid)
        if status.st_mode & stat.S_IWOTH and not safe:
            raise ServerError(f"every user of this machine can put another folder in the place of {inner}: move it")
        inner = outer


def check_version(folder: Path, config: schema.ModelConfig) -> None:
    """Raise ServerError unless a model's configuration and files are, to the byte, what the build verified."""
    parameters, version = config.parameters, version_of(config)
    # An older version of this project wrote fewer hashes, and no answers to compare with.
    if not version or not parameters[FILES_HASH].string_value:
        raise ServerError(f"{folder} is of an older version of this project: build it again with deploy.build_engine")
    again = f"delete {folder.parent} and run deploy.build_engine again"
    if config_fingerprint(config) != parameters[HASH].string_value:
        raise ServerError(f"{folder / CONFIGURATION} is not what the build wrote: {again}")
    network = folder / version / parameters["network"].string_value
    try:
        contents = read_version(network.parent, network.name)
    except OSError as error:
        raise ServerError(f"{error.filename} cannot be read: {error.strerror}") from None
    if version_fingerprint(contents) != parameters[FILES_HASH].string_value:
        raise ServerError(f"{network} is not the network that was verified, or a file beside it has changed: {again}")


def read_contract(config: schema.ModelConfig) -> Contract:
    """Read the contract that a model's configuration carries.

    Raises ServerError where it is not one.
    """
    try:
        return Contract.from_json(config.parameters["contract"].string_value)
    except ValueError as error:
        raise ServerError(f"model {config.name}: {error}; build the repository again") from None


def adapted(config: schema.ModelConfig, workers: Workers, max_request_bytes: int) -> schema.ModelConfig:
    """Return a copy with workers, threads and the limit on a request's bytes set for this machine."""
    copy = schema.ModelConfig()
    copy.CopyFrom(config)
    copy.instance_group[0].count = workers.workers
    # A worker reads these from its configuration: it gets no other arguments.
    copy.parameters["threads"].string_value = str(workers.threads)
    copy.parameters["max_request_bytes"].string_value = str(max_request_bytes)
    for output in copy.output:
        if output.label_filename:
            output.label_filename = f"{version_of(config)}/{output.label_filename}"
    return copy
