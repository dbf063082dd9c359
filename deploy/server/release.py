"""Hold one version of what a repository serves: read, checked, adapted to this machine, and marked as in use."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as schema

from data_pipeline.cores import processor
from deploy.content import HASH, hold
from deploy.contract import PIPELINE_MODEL, Contract
from deploy.errors import ServerError
from deploy.files import version_of
from deploy.server.model_configs import adapted, read_contract, read_repository
from deploy.server.options import ServerOptions, Workers
from deploy.server.tuning import choose


class Release:
    """Hold the verified configurations of one version, whose files no build removes until `close`.

    configs: by model, as they are loaded.
    contract: what the served model takes and gives.
    workers: and threads of each model.
    """

    configs: Mapping[str, schema.ModelConfig]
    contract: Contract
    workers: Workers

    def __init__(self, repository: Path, options: ServerOptions) -> None:
        """Read a repository's version.

        Raises ServerError where this server could not load it.
        """
        configs = read_repository(repository)
        self.workers = choose(repository, configs[PIPELINE_MODEL].parameters[HASH].string_value, options.tuning)
        self.configs = {
            name: adapted(config, self.workers, options.max_request_bytes) for name, config in configs.items()
        }
        self.contract = read_contract(self.configs[PIPELINE_MODEL])
        with ExitStack() as held:
            try:
                for name, config in self.configs.items():
                    held.callback(os.close, hold(repository / name / version_of(config)))
            except OSError as error:
                raise ServerError(f"{error.filename} cannot be read: {error.strerror}") from None
            self._held = held.pop_all()

    @property
    def advice(self) -> str:
        """Say where another engine may be faster on this processor than the one that is served, or return nothing."""
        timed_on = self.configs[PIPELINE_MODEL].parameters["timed_on"].string_value
        # Repositories of earlier versions do not say.
        if timed_on in ("", processor()):
            return ""
        return (
            f"the engine was chosen by its time on {timed_on}, and this is {processor()}: answers are the same, but "
            "`python -m deploy.build_engine` here may find a faster one"
        )

    @property
    def hashes(self) -> dict[tuple[str, str], str]:
        """Return the hash of each model and version."""
        return {
            (name, version_of(config)): config.parameters[HASH].string_value for name, config in self.configs.items()
        }

    def close(self) -> None:
        """Let a build remove the files."""
        self._held.close()

    def __str__(self) -> str:
        """Return the version and the hash of the model that takes images, as its responses name them."""
        config = self.configs[PIPELINE_MODEL]
        return f"version {version_of(config)}, sha256 {config.parameters[HASH].string_value}"
