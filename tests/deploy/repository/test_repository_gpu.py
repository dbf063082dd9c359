"""Check the GPU repository as far as that goes without a GPU: the schema, the contract, the joints of the ensemble."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2 as schema

from deploy.contract import NETWORK_MODEL, PIPELINE_MODEL, PREPROCESSING_MODEL, Contract, TensorSpec, sample_image
from deploy.files import read_config
from deploy.repository.gpu import write_gpu_repository

MODELS = (PIPELINE_MODEL, NETWORK_MODEL, PREPROCESSING_MODEL)


@pytest.fixture(scope="module", params=["one sigmoid channel", "four classes"])
def served(request: pytest.FixtureRequest, contract: Contract) -> Contract:
    """Return a contract with a binary mask, and one with several classes."""
    if request.param == "four classes":
        return contract
    return dataclasses.replace(contract, seg_classes=("background", "lesion"), labels=("melanoma",), thresholds=None)


@pytest.fixture(scope="module")
def configs(served: Contract, tmp_path_factory: pytest.TempPathFactory) -> dict[str, schema.ModelConfig]:
    """Write a repository without a plan and read its configurations back, by model."""
    repository = write_gpu_repository(tmp_path_factory.mktemp("gpu"), served, None)
    assert sorted(folder.name for folder in repository.iterdir()) == sorted(MODELS)
    return {name: read_config(repository / name) for name in MODELS}


def described(tensors: object) -> dict[str, tuple[str, list[int]]]:
    """Return types and shapes by name, as a configuration has them."""
    return {one.name: (schema.DataType.Name(one.data_type), list(one.dims)) for one in tensors}  # type: ignore[attr-defined]


def of_contract(*specs: TensorSpec) -> dict[str, tuple[str, list[int]]]:
    """Return types and shapes by name, as the contract has them."""
    return {spec.name: (f"TYPE_{spec.dtype}", list(spec.shape)) for spec in specs}


def test_tensors_are_the_contracts(configs: dict[str, schema.ModelConfig], served: Contract) -> None:
    expected = {
        PIPELINE_MODEL: (of_contract(served.encoded_image), of_contract(*served.outputs)),
        PREPROCESSING_MODEL: (of_contract(served.encoded_image), of_contract(served.network_input)),
        NETWORK_MODEL: (of_contract(served.network_input), of_contract(*served.outputs)),
    }
    assert {name: (described(one.input), described(one.output)) for name, one in configs.items()} == expected
    assert {one.max_batch_size for one in configs.values()} == {served.max_batch}
    assert Contract.from_json(configs[PIPELINE_MODEL].parameters["contract"].string_value) == served


def test_every_tensor_of_the_ensemble_is_made_once_and_used(configs: dict[str, schema.ModelConfig]) -> None:
    ensemble = configs[PIPELINE_MODEL]
    steps = ensemble.ensemble_scheduling.step
    # The request brings what nothing makes, and the response takes what nothing else uses.
    made = Counter(one.name for one in ensemble.input)
    used = Counter(one.name for one in ensemble.output)
    for step in steps:
        model = configs[step.model_name]
        assert set(step.input_map) == {one.name for one in model.input}
        assert set(step.output_map) == {one.name for one in model.output}
        made.update(step.output_map.values())
        used.update(step.input_map.values())
    assert set(made) == set(used)
    assert set(made.values()) == {1}


def test_neighbouring_steps_agree_on_what_passes_between_them(configs: dict[str, schema.ModelConfig]) -> None:
    decode, infer = (configs[step.model_name] for step in configs[PIPELINE_MODEL].ensemble_scheduling.step)
    assert described(decode.output) == described(infer.input)


def test_every_batch_size_has_a_graph_and_a_warm_up(configs: dict[str, schema.ModelConfig], served: Contract) -> None:
    network, sizes = configs[NETWORK_MODEL], list(range(1, served.max_batch + 1))
    graphs = network.optimization.cuda.graph_spec
    assert [graph.batch_size for graph in graphs] == sizes
    assert all(list(graph.input["INPUT"].dim) == [3, 51, 51] for graph in graphs)
    assert [warmup.batch_size for warmup in network.model_warmup] == sizes


def test_a_bad_image_cannot_fail_another_request(configs: dict[str, schema.ModelConfig]) -> None:
    # The server merges requests only where it is told to, and the images of one request are decoded together.
    assert not configs[PREPROCESSING_MODEL].HasField("dynamic_batching")
    assert configs[NETWORK_MODEL].HasField("dynamic_batching")


def test_nothing_needs_a_server_newer_than_the_plan(configs: dict[str, schema.ModelConfig]) -> None:
    # Servers before 25.11 do not load a configuration with this field.
    assert configs[PIPELINE_MODEL].ensemble_scheduling.max_inflight_requests == 0
    assert configs[NETWORK_MODEL].dynamic_batching.default_queue_policy.max_queue_size > 0


def test_the_network_may_use_every_profile_of_its_plan(configs: dict[str, schema.ModelConfig]) -> None:
    assert list(configs[NETWORK_MODEL].instance_group[0].profile) == ["0", "1"]
    assert [group.count for group in configs[PREPROCESSING_MODEL].instance_group] == [1]


def test_warm_up_image_is_what_the_configuration_says(served: Contract, tmp_path: Path) -> None:
    folder = write_gpu_repository(tmp_path, served, None) / PREPROCESSING_MODEL
    (image,) = read_config(folder).model_warmup[0].inputs.values()
    assert (folder / "warmup" / image.input_data_file).read_bytes() == sample_image()
    assert list(image.dims) == [len(sample_image())]


def test_plan_is_taken_in_and_the_decoder_names_the_contracts_input(served: Contract, tmp_path: Path) -> None:
    (tmp_path / "engine").write_bytes(b"plan")
    repository = write_gpu_repository(tmp_path / "build", served, tmp_path / "engine")
    assert (repository / NETWORK_MODEL / "1" / "model.plan").read_bytes() == b"plan"
    assert served.encoded_image.name.encode() in (repository / PREPROCESSING_MODEL / "1" / "model.dali").read_bytes()
