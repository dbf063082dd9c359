"""Write the model repository for a CPU: for each model its configuration, its code and the network's file."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as schema

from data_pipeline.files import whole_folder
from deploy.contract import NETWORK_MODEL, PIPELINE_MODEL, Contract, TensorSpec
from deploy.files import DIRECTORY, VERSION, network_files, network_fingerprint, write_config

# Each model's class in deploy.server.worker, and the attribute of the contract that is its input.
_MODELS = {NETWORK_MODEL: ("NetworkModel", "network_input"), PIPELINE_MODEL: ("ImageModel", "encoded_image")}
# The code lives in this package and not in the repository, so an update of the package needs no new build.
_MODEL_FILE = '''"""Loaded by the server's Python backend, in an environment where resformer-deploy is installed."""

from deploy.server.worker import {model_class} as TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(output: Path, contract: Contract, network: Path, *, execution: str = "openvino f32") -> Path:
    """Write `output/model_repository/` for a CPU and return its path.

    An earlier one is replaced whole or not at all.

    Args:
        output: the build's folder.
        contract: what the models take and return.
        network: an `.onnx` file, or OpenVINO's `.xml` with its `.bin`, that has the contract's tensors.
        execution: of `deploy.network.EXECUTIONS`, the one that the network was verified in.

    Raises:
        OSError: the network cannot be read or the output cannot be written.
    """
    with whole_folder(output / DIRECTORY, replace=True) as repository:
        for name, (model_class, source) in _MODELS.items():
            version = repository / name / VERSION
            version.mkdir(parents=True)
            (version / "model.py").write_text(_MODEL_FILE.format(model_class=model_class))
            config = model_config(name, getattr(contract, source), contract.outputs, contract)
            config.backend = "python"
            config.parameters["network"].string_value = network.name
            config.parameters["execution"].string_value = execution
            # The server refuses a network that is not the one that was verified.
            config.parameters["sha256"].string_value = network_fingerprint(network)
            config.instance_group.add(kind=schema.ModelInstanceGroup.KIND_CPU, count=1)
            write_config(repository / name, config)
        networks = [repository / name / VERSION for name in _MODELS]
        for file in network_files(network):
            # Copied once, so that a later build cannot change what is served, and linked for the second model.
            shutil.copy2(file, networks[0] / file.name)
            os.link(networks[0] / file.name, networks[1] / file.name)
    return output / DIRECTORY


def model_config(
    name: str, source: TensorSpec, outputs: Iterable[TensorSpec], contract: Contract
) -> schema.ModelConfig:
    """Make the part of a configuration that all models share: tensors, batch size and the contract itself."""
    config = schema.ModelConfig(name=name, max_batch_size=contract.max_batch)
    for tensors, specs in ((config.input, (source,)), (config.output, outputs)):
        for spec in specs:
            tensors.add(name=spec.name, data_type=data_type(spec), dims=spec.shape)
    # Clients read the names of classes and labels from here.
    config.parameters["contract"].string_value = contract.to_json()
    return config


def data_type(spec: TensorSpec) -> schema.DataType:
    """Return the configuration's name of a tensor's type: UINT8 is TYPE_UINT8."""
    return schema.DataType.Value(f"TYPE_{spec.dtype}")
