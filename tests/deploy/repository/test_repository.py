"""Check the repository on disk: it holds what the contract says in the server's schema, and is replaced whole."""

from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2 as schema

from deploy.contract import NETWORK_MODEL, PIPELINE_MODEL, Contract
from deploy.files import read_config
from deploy.repository import write_repository


@pytest.mark.parametrize(
    ("model", "name", "dtype", "dims"),
    [(PIPELINE_MODEL, "IMAGE", "TYPE_UINT8", [-1]), (NETWORK_MODEL, "INPUT", "TYPE_FP32", [3, 51, 51])],
)
def test_configuration_says_what_the_contract_says(
    repository: Path, contract: Contract, model: str, name: str, dtype: str, dims: list[int]
) -> None:
    config = read_config(repository / model)
    assert (config.name, config.max_batch_size, config.backend) == (model, contract.max_batch, "python")
    (source,) = config.input
    assert (source.name, schema.DataType.Name(source.data_type), list(source.dims)) == (name, dtype, dims)
    outputs = {one.name: (schema.DataType.Name(one.data_type), list(one.dims)) for one in config.output}
    assert outputs == {
        "MASK": ("TYPE_UINT8", [51, 51]),
        "CLASS_PROBS": ("TYPE_FP32", [2]),
        "SEG_PROBS": ("TYPE_FP32", [4, 51, 51]),
    }
    assert Contract.from_json(config.parameters["contract"].string_value) == contract


def test_network_is_stored_once_for_both_models(repository: Path, network: Path) -> None:
    copies = [repository / model / "1" / network.name for model in (PIPELINE_MODEL, NETWORK_MODEL)]
    assert copies[0].samefile(copies[1])
    assert copies[0].read_bytes() == network.read_bytes()


def test_weights_beside_the_network_come_along(tmp_path: Path, contract: Contract) -> None:
    (tmp_path / "net.xml").write_text("<net/>")
    (tmp_path / "net.bin").write_bytes(b"weights")
    repository = write_repository(tmp_path / "build", contract, tmp_path / "net.xml")
    assert (repository / PIPELINE_MODEL / "1" / "net.bin").read_bytes() == b"weights"


def test_failed_write_leaves_the_good_one_and_no_litter(tmp_path: Path, contract: Contract, network: Path) -> None:
    repository = write_repository(tmp_path, contract, network)
    before = {file: file.read_bytes() for file in repository.rglob("*") if file.is_file()}
    with pytest.raises(OSError):
        write_repository(tmp_path, contract, tmp_path / "gone.onnx")
    assert {file: file.read_bytes() for file in repository.rglob("*") if file.is_file()} == before
    assert list(tmp_path.iterdir()) == [repository]


def test_new_one_replaces_the_old_one_whole(tmp_path: Path, contract: Contract, network: Path) -> None:
    stale = write_repository(tmp_path, contract, network) / "stale_model"
    stale.mkdir()
    repository = write_repository(tmp_path, contract, network, execution="openvino bf16")
    assert not stale.exists()
    assert read_config(repository / NETWORK_MODEL).parameters["execution"].string_value == "openvino bf16"
    assert list(tmp_path.iterdir()) == [repository]
