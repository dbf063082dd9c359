"""Loads and unloads models; the only one who can, because this side of the server asks for a secret."""

from __future__ import annotations

import secrets

import tritonclient.grpc as grpc
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as schema
from tritonclient.utils import InferenceServerException

from deploy.server.errors import ServerError

# Compiling a large network takes its time.
LOAD_SECONDS = 120.0
# What a client of a served model has no business with.
_RESTRICTED = "model-repository,shared-memory,trace,logging"


class ModelControl:
    """The server's model control, closed to everyone without the key that each start draws anew."""

    def __init__(self) -> None:
        self._key = secrets.token_hex(16)

    def arguments(self) -> list[str]:
        """What the server's command line needs so that the key is asked for."""
        return [
            "--model-control-mode=explicit",
            f"--grpc-restricted-protocol={_RESTRICTED}:resformer-key={self._key}",
            f"--http-restricted-api={_RESTRICTED}:resformer-key={self._key}",
        ]

    def load(self, url: str, config: schema.ModelConfig) -> None:
        """Load a model with `config` in place of its file's; raises ServerError with the server's reason."""
        try:
            with grpc.InferenceServerClient(url) as client:
                client.load_model(
                    config.name,
                    headers=self._header(),
                    config=json_format.MessageToJson(config),
                    client_timeout=LOAD_SECONDS,
                )
        except InferenceServerException as error:
            raise ServerError(_reason(error)) from None

    def unload(self, url: str, name: str, timeout: float) -> None:
        """Take a model out of service, after which a load starts new workers.

        Not waited for until it is gone: a request that failed on a dead worker keeps the old one "unloading" for ever.
        """
        try:
            with grpc.InferenceServerClient(url) as client:
                client.unload_model(name, headers=self._header(), client_timeout=timeout)
        except InferenceServerException as error:
            raise ServerError(_reason(error)) from None

    def _header(self) -> dict[str, str]:
        return {"triton-grpc-protocol-resformer-key": self._key}


def _reason(error: InferenceServerException) -> str:
    # What follows "At:" is the worker's stack.
    return " ".join(str(error.message()).partition("\n\nAt:")[0].split())
