"""Name and read the files that builds leave and servers load.

Build and server share this module, `contract.py` and `errors.py`, and no other of this package.
"""

import hashlib
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

DIRECTORY, GPU_DIRECTORY = "model_repository", "model_repository_gpu"
# Triton Inference Server's own names: REPOSITORY/MODEL/config.pbtxt and REPOSITORY/MODEL/VERSION/.
CONFIGURATION = "config.pbtxt"
VERSION = "1"


def possible_files(network: Path) -> list[Path]:
    """List a network's file, and the companions that it may have."""
    return [
        network,
        network.with_suffix(".bin"),  # the weights of OpenVINO's IR
        network.with_name(network.name + ".data"),  # the weights of an ONNX file that keeps them apart
        network.with_suffix(".layers.json"),  # what TensorRT made of each layer
    ]


def network_files(network: Path) -> list[Path]:
    """List a network's file, and the companions of it that exist."""
    return [network, *(file for file in possible_files(network)[1:] if file.exists())]


def network_fingerprint(network: Path) -> str:
    """Hash a network's file and its companions (SHA-256).

    Raises OSError where one of them cannot be read.
    """
    # The companions hold the weights: a hash of the named file alone would pass an engine whose weights were changed.
    return fingerprint(*network_files(network))


def fingerprint(*files: Path) -> str:
    """Hash the content of files, one after the other (SHA-256).

    Raises OSError where one of them cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def write_config(folder: Path, config: schema.ModelConfig) -> None:
    """Write a model's configuration in the text form that the server reads."""
    (folder / CONFIGURATION).write_text(text_format.MessageToString(config))


def read_config(folder: Path) -> schema.ModelConfig:
    """Read a model's configuration from its folder.

    Raises OSError where the file cannot be read, and text_format.ParseError where it is not a configuration.
    """
    return text_format.Parse((folder / CONFIGURATION).read_text(), schema.ModelConfig())
