"""Name the folders that builds leave and servers load, and read and write the configurations in them."""

import hashlib
import json
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2 as schema

from deploy.content import HASH

DIRECTORY, GPU_DIRECTORY = "model_repository", "model_repository_gpu"
# Triton Inference Server's own names: REPOSITORY/MODEL/config.pbtxt and REPOSITORY/MODEL/VERSION/.
CONFIGURATION = "config.pbtxt"
VERSION = "1"  # the first
TUNING = "tuning.json"  # in a repository, outside of what is hashed: it decides how fast answers are, not which


def write_config(folder: Path, config: schema.ModelConfig) -> None:
    """Write a model's configuration in the text form that the server reads."""
    (folder / CONFIGURATION).write_text(text_format.MessageToString(config), encoding="utf-8")


def read_config(folder: Path) -> schema.ModelConfig:
    """Read a model's configuration from its folder.

    Raises OSError where the file cannot be read, and text_format.ParseError where it is not a configuration.
    """
    return text_format.Parse((folder / CONFIGURATION).read_text(encoding="utf-8"), schema.ModelConfig())


def config_fingerprint(config: schema.ModelConfig) -> str:
    """Hash everything in a configuration (SHA-256) but this hash and the number of the version.

    The hash of the version's files is one of its parameters, so that it stands for them too.
    """
    fields = json_format.MessageToDict(config, preserving_proto_field_name=True)
    # The number only names a folder. The same network, published again, is the same.
    fields.pop("version_policy", None)
    fields.get("parameters", {}).pop(HASH, None)
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def version_of(config: schema.ModelConfig) -> str:
    """Return the name of the version's folder that a configuration is for, empty where it names none or several."""
    versions = config.version_policy.specific.versions
    return str(versions[0]) if len(versions) == 1 else ""
