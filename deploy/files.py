"""Name and read what builds leave and servers load: the files of a network, and the layout of a model repository.

Build and server share this module and `contract.py`, and nothing else.
"""

import hashlib
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

DIRECTORY, GPU_DIRECTORY = "model_repository", "model_repository_gpu"
CONFIGURATION = "config.pbtxt"
VERSION = "1"


def network_files(network: Path) -> list[Path]:
    """List the network's file and what belongs to it: IR's `.bin`, ONNX's `.onnx.data`, a TensorRT engine's layers."""
    companions = (
        network.with_suffix(".bin"),
        network.with_name(network.name + ".data"),
        network.with_suffix(".layers.json"),
    )
    return [network, *(file for file in companions if file.exists())]


def network_fingerprint(network: Path) -> str:
    """Hash the network's file and what belongs to it (SHA-256); raises OSError where one cannot be read."""
    digest = hashlib.sha256()
    for path in network_files(network):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_config(folder: Path, config: schema.ModelConfig) -> None:
    """Write a model's configuration in the form the server reads."""
    (folder / CONFIGURATION).write_text(text_format.MessageToString(config))


def read_config(folder: Path) -> schema.ModelConfig:
    """Read a model's configuration from its folder; raises OSError or text_format.ParseError."""
    return text_format.Parse((folder / CONFIGURATION).read_text(), schema.ModelConfig())
