"""Write the model repository for a CPU: for each model its configuration, its code and the network's file."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as schema

from data_pipeline.cores import processor
from data_pipeline.files import link_or_copy, whole_folder
from deploy.content import CODE, FILES_HASH, GOLDEN, HASH, LABELS, network_files, read_version, version_fingerprint
from deploy.contract import CLASS_PROBS, NETWORK_MODEL, PIPELINE_MODEL, Contract, TensorSpec
from deploy.files import DIRECTORY, TUNING, config_fingerprint, write_config
from deploy.network.golden import Golden
from deploy.repository.versions import NEW, number_of, place

# Each model's class in deploy.server.worker, and the attribute of the contract that is its input.
_MODELS = {NETWORK_MODEL: ("NetworkModel", "network_input"), PIPELINE_MODEL: ("ImageModel", "encoded_image")}
# The code lives in this package and not in the repository, so an update of the package needs no new build.
_MODEL_FILE = '''"""Loaded by the server's Python backend, in an environment where resformer-deploy is installed."""

from deploy.server.worker import {model_class} as TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(
    output: Path,
    contract: Contract,
    network: Path,
    golden: Golden,
    *,
    execution: str = "openvino f32",
    previous: Path | None = None,
) -> Path:
    """Write `output/model_repository/` for a CPU and return its path.

    An earlier one is replaced whole or not at all. What is served goes into folders of a new version, and those of the
    earlier repository that a server holds come along, so that a running server never sees its files change.

    Args:
        output: the build's folder.
        contract: what the models take and return.
        network: an `.onnx` file, or OpenVINO's `.xml` with its `.bin`, that has the contract's tensors.
        golden: answers that every load of the network is compared with.
        execution: of `deploy.network.EXECUTIONS`, the one that the network was verified in.
        previous: the repository that this one follows, by default the one that it replaces.

    Raises:
        OSError: the network cannot be read or the output cannot be written.
    """
    previous = previous or output / DIRECTORY
    with whole_folder(output / DIRECTORY, replace=True) as repository:
        configs = {name: _write_version(repository, name, contract, network, golden, execution) for name in _MODELS}
        number = number_of(previous, configs)
        for name, config in configs.items():
            place(previous / name, repository / name, number, config)
            config.version_policy.specific.versions.append(number)
            write_config(repository / name, config)
        # Whether it is for the new version as well, its hash tells the server.
        if (previous / TUNING).is_file():
            shutil.copyfile(previous / TUNING, repository / TUNING)
    return output / DIRECTORY


def _write_version(
    repository: Path, name: str, contract: Contract, network: Path, golden: Golden, execution: str
) -> schema.ModelConfig:
    """Write the files of one model's new version, and return its configuration."""
    model_class, source = _MODELS[name]
    version = repository / name / NEW
    version.mkdir(parents=True)
    (version / CODE).write_text(_MODEL_FILE.format(model_class=model_class), encoding="utf-8")
    (version / LABELS).write_text("".join(f"{label}\n" for label in contract.labels), encoding="utf-8")
    shared = [file.name for file in network_files(network)] + [GOLDEN]
    written = next((folder for folder in repository.glob(f"*/{NEW}") if (folder / GOLDEN).exists()), None)
    if written:
        for file in shared:
            link_or_copy(written / file, version / file)
    else:
        # Copied once, so that a later build cannot change what is served, and linked for the second model.
        for path in network_files(network):
            shutil.copy2(path, version / path.name)
        (version / GOLDEN).write_bytes(golden.to_bytes())
    config = model_config(name, getattr(contract, source), contract.outputs, contract)
    # For the classification extension, which answers with names. The server puts the version's folder in front.
    next(output for output in config.output if output.name == CLASS_PROBS).label_filename = LABELS
    config.backend = "python"
    config.parameters["network"].string_value = network.name
    config.parameters["execution"].string_value = execution
    # The forms of its layers and the engine itself were chosen by their times here.
    config.parameters["timed_on"].string_value = processor()
    config.instance_group.add(kind=schema.ModelInstanceGroup.KIND_CPU, count=1)
    # The server refuses what is not, to the byte, what was verified.
    config.parameters[FILES_HASH].string_value = version_fingerprint(read_version(version, network.name))
    config.parameters[HASH].string_value = config_fingerprint(config)
    return config


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
