"""Reach tritonserver's own HTTP endpoint, on the loopback and closed to everyone without the key of this start."""

import http.client
import json
import secrets

from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2 as schema

from deploy.server.errors import ServerError

ADDRESS = "127.0.0.1"
# Every API that the server has. What clients may use of them, the front and the gRPC side offer.
_ALL = "health,metadata,inference,shared-memory,model-config,model-repository,statistics,trace,logging"
# What a client of a served model has no business with.
_RESTRICTED_GRPC = "model-repository,shared-memory,trace,logging"


class PrivateSide:
    """How the probe, the model control and the front reach the server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.key = secrets.token_hex(16)
        self.headers = {"resformer-key": self.key}

    def arguments(self) -> list[str]:
        """What the server's command line needs for it."""
        return [
            f"--http-address={ADDRESS}",
            f"--http-port={self.port}",
            f"--http-restricted-api={_ALL}:resformer-key={self.key}",
            f"--grpc-restricted-protocol={_RESTRICTED_GRPC}:resformer-key={self.key}",
        ]

    def ask(
        self, method: str, path: str, body: bytes = b"", *, timeout: float, headers: dict[str, str] | None = None
    ) -> bytes:
        """The body of a good answer; raises ServerError with the server's reason, or where there is no answer."""
        connection = http.client.HTTPConnection(ADDRESS, self.port, timeout=timeout)
        try:
            connection.request(method, path, body, self.headers | (headers or {}))
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError:
            raise ServerError(f"no answer within {timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"the server cannot be reached: {error}") from None
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise ServerError(_reason(answer) or f"HTTP status {response.status}")
        return answer


def _reason(answer: bytes) -> str:
    """The server's words in one line; what follows "At:" is the worker's stack."""
    try:
        message = str(json.loads(answer)["error"])
    except (ValueError, LookupError, TypeError):
        return ""
    return " ".join(message.partition("\n\nAt:")[0].split())


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
