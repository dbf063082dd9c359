"""Leave out of the server's description of itself what is closed to clients."""

import json

from tritonclient.grpc import service_pb2 as schema

# Of tritonserver's. Of the extension model_repository the index is open.
CLOSED = frozenset(
    [
        "model_repository(unload_dependents)",
        "system_shared_memory",
        "cuda_shared_memory",
        "trace",
        "logging",
    ]
)


def open_json(body: bytes) -> bytes:
    """Return the JSON of the server's metadata without closed extensions."""
    document = json.loads(body)
    document["extensions"] = [name for name in document["extensions"] if name not in CLOSED]
    return json.dumps(document).encode()


def open_message(message: bytes) -> bytes:
    """Return a serialised ServerMetadataResponse without closed extensions."""
    metadata = schema.ServerMetadataResponse.FromString(message)
    kept = [name for name in metadata.extensions if name not in CLOSED]
    del metadata.extensions[:]
    metadata.extensions.extend(kept)
    answer: bytes = metadata.SerializeToString()
    return answer
