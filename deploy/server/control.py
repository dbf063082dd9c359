"""Loads and unloads models."""

from __future__ import annotations

import json

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as schema

from deploy.server.private import PrivateSide

# Compiling a large network takes its time.
LOAD_SECONDS = 120.0


class ModelControl:
    """The server's model control, which only its private side offers."""

    def __init__(self, private: PrivateSide) -> None:
        self._private = private

    def load(self, config: schema.ModelConfig) -> None:
        """Load a model with `config` in place of its file's; raises ServerError with the server's reason."""
        parameters = {"config": json_format.MessageToJson(config)}
        self._post(config.name, "load", LOAD_SECONDS, json.dumps({"parameters": parameters}).encode())

    def unload(self, name: str, timeout: float) -> None:
        """Take a model out of service, after which a load starts new workers.

        Not waited for until it is gone: a request that failed on a dead worker keeps the old one "unloading" for ever.
        """
        self._post(name, "unload", timeout)

    def _post(self, name: str, action: str, timeout: float, body: bytes = b"") -> None:
        self._private.ask("POST", f"/v2/repository/models/{name}/{action}", body, timeout=timeout)
