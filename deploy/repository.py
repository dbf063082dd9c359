"""Writes the model repository that the server loads: for each model its configuration, code and network file."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from deploy.contract import NETWORK_MODEL, PIPELINE_MODEL, Contract, TensorSpec

DIRECTORY, GPU_DIRECTORY = "model_repository", "model_repository_gpu"
CONFIGURATION = "config.pbtxt"
VERSION = "1"

# name: its class in deploy.backend.models, and the contract's attribute that is its input
_MODELS = {NETWORK_MODEL: ("NetworkModel", "network_input"), PIPELINE_MODEL: ("ImageModel", "encoded_image")}
_MODEL_FILE = '''"""Loaded by the server's Python backend, in an environment where resformer-deploy is installed."""

from deploy.backend.models import {model_class} as TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(output: Path, contract: Contract, network: Path, *, precision: str = "f32") -> Path:
    """Write `output/model_repository/` for a CPU and return its path; an earlier one is replaced whole or not at all.

    network: `.onnx` or OpenVINO `.xml` with its `.bin`; takes INPUT, gives MASK, CLASS_PROBS and SEG_PROBS.
    precision: what OpenVINO may compute in ("f32", "bf16", "f16"): the one that the network was verified with.
    Raises OSError where the network cannot be read or the output cannot be written.
    """
    with replacing(output / DIRECTORY) as repository:
        for name, (model_class, source) in _MODELS.items():
            version = repository / name / VERSION
            version.mkdir(parents=True)
            (version / "model.py").write_text(_MODEL_FILE.format(model_class=model_class))
            config = model_config(name, getattr(contract, source), contract.outputs, contract)
            config.backend = "python"
            config.parameters["network"].string_value = network.name
            config.parameters["precision"].string_value = precision
            config.parameters["sha256"].string_value = network_fingerprint(network)
            config.instance_group.add(kind=schema.ModelInstanceGroup.KIND_CPU, count=1)
            write_config(repository / name, config)
        networks = [repository / name / VERSION for name in _MODELS]
        for file in network_files(network):
            shutil.copyfile(file, networks[0] / file.name)
            os.link(networks[0] / file.name, networks[1] / file.name)
    return output / DIRECTORY


def model_config(
    name: str, source: TensorSpec, outputs: Iterable[TensorSpec], contract: Contract
) -> schema.ModelConfig:
    """What every model of the contract shares: its tensors, batch size and, for the client, the contract itself."""
    config = schema.ModelConfig(name=name, max_batch_size=contract.max_batch)
    for tensors, specs in ((config.input, (source,)), (config.output, outputs)):
        for spec in specs:
            tensors.add(name=spec.name, data_type=data_type(spec), dims=spec.shape)
    config.parameters["contract"].string_value = contract.to_json()
    return config


def data_type(spec: TensorSpec) -> schema.DataType:
    """The configuration's name of a wire type: UINT8 is TYPE_UINT8."""
    return schema.DataType.Value(f"TYPE_{spec.dtype}")


def write_config(folder: Path, config: schema.ModelConfig) -> None:
    """Write a model's configuration in the form the server reads."""
    (folder / CONFIGURATION).write_text(text_format.MessageToString(config))


def read_config(folder: Path) -> schema.ModelConfig:
    """A model's configuration back from its folder; raises OSError or text_format.ParseError."""
    return text_format.Parse((folder / CONFIGURATION).read_text(), schema.ModelConfig())


def network_files(network: Path) -> list[Path]:
    """The network's file and what belongs to it: IR's `.bin`, ONNX's `.onnx.data`, a TensorRT engine's layers."""
    companions = (
        network.with_suffix(".bin"),
        network.with_name(network.name + ".data"),
        network.with_suffix(".layers.json"),
    )
    return [network, *(file for file in companions if file.exists())]


def network_fingerprint(network: Path) -> str:
    """SHA-256 of the network's file and of what belongs to it; raises OSError where it cannot be read."""
    digest = hashlib.sha256()
    for path in network_files(network):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the place of `target` when the block ends well, else `target` stays as it was."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        yield fresh
        if target.exists():
            target.rename(old)
        try:
            fresh.rename(target)
        except OSError:
            old.rename(target)
            raise
