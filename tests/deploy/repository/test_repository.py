"""Check the repository on disk: it holds what the contract says in the server's schema, and is replaced whole."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from tritonclient.grpc import model_config_pb2 as schema

from deploy.content import hold, is_held
from deploy.contract import NETWORK_MODEL, PIPELINE_MODEL, Contract
from deploy.errors import ServerError
from deploy.files import TUNING, config_fingerprint, read_config, version_of
from deploy.network.golden import Golden
from deploy.repository import write_repository
from deploy.server.model_configs import read_repository
from deploy.server.options import ServerOptions
from deploy.server.release import Release


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


def test_a_server_on_another_processor_is_told_to_build_again(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = Release(repository, ServerOptions())
    assert release.advice == ""
    monkeypatch.setattr("deploy.server.release.processor", lambda: "another processor")
    assert "this is another processor" in release.advice
    release.close()


def test_network_is_stored_once_for_both_models(repository: Path, network: Path) -> None:
    copies = [repository / model / "1" / network.name for model in (PIPELINE_MODEL, NETWORK_MODEL)]
    assert copies[0].samefile(copies[1])
    assert copies[0].read_bytes() == network.read_bytes()


def test_weights_beside_the_network_come_along(tmp_path: Path, contract: Contract, golden: Golden) -> None:
    (tmp_path / "net.xml").write_text("<net/>")
    (tmp_path / "net.bin").write_bytes(b"weights")
    repository = write_repository(tmp_path / "build", contract, tmp_path / "net.xml", golden)
    assert (repository / PIPELINE_MODEL / "1" / "net.bin").read_bytes() == b"weights"


def test_failed_write_leaves_the_good_one_and_no_litter(
    tmp_path: Path, contract: Contract, network: Path, golden: Golden
) -> None:
    repository = write_repository(tmp_path, contract, network, golden)
    before = {file: file.read_bytes() for file in repository.rglob("*") if file.is_file()}
    with pytest.raises(OSError):
        write_repository(tmp_path, contract, tmp_path / "gone.onnx", golden)
    assert {file: file.read_bytes() for file in repository.rglob("*") if file.is_file()} == before
    assert list(tmp_path.iterdir()) == [repository]


def test_new_one_replaces_the_old_one_whole(tmp_path: Path, contract: Contract, network: Path, golden: Golden) -> None:
    stale = write_repository(tmp_path, contract, network, golden) / "stale_model"
    stale.mkdir()
    repository = write_repository(tmp_path, contract, network, golden, execution="openvino bf16")
    assert not stale.exists()
    # Nobody serves the first version.
    assert [folder.name for folder in (repository / NETWORK_MODEL).iterdir() if folder.is_dir()] == ["2"]
    assert read_config(repository / NETWORK_MODEL).parameters["execution"].string_value == "openvino bf16"
    assert list(tmp_path.iterdir()) == [repository]


def test_what_has_not_changed_keeps_its_number(
    tmp_path: Path, contract: Contract, network: Path, golden: Golden
) -> None:
    for number in ("1", "1", "2"):
        execution = "openvino f32" if number == "1" else "openvino bf16"
        repository = write_repository(tmp_path, contract, network, golden, execution=execution)
        assert version_of(read_config(repository / PIPELINE_MODEL)) == number


def test_versions_that_a_server_holds_stay_the_same_files(
    tmp_path: Path, contract: Contract, network: Path, golden: Golden
) -> None:
    first = write_repository(tmp_path, contract, network, golden) / PIPELINE_MODEL / "1"
    inode = (first / network.name).stat().st_ino
    mark = hold(first)
    # Published again as it is, then replaced twice.
    for execution, numbers in (("openvino f32", {"1"}), ("openvino bf16", {"1", "2"}), ("onnxruntime", {"1", "3"})):
        write_repository(tmp_path, contract, network, golden, execution=execution)
        assert {folder.name for folder in first.parent.iterdir() if folder.is_dir()} == numbers
        assert (first / network.name).stat().st_ino == inode
    os.close(mark)
    write_repository(tmp_path, contract, network, golden, execution="onnxruntime literal")
    assert not first.exists()


@pytest.mark.parametrize(("reason", "held"), [(errno.EBADF, True), (errno.ENOLCK, False)])
def test_a_version_is_held_in_doubt(
    reason: int, held: bool, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy, since servers of other tests may hold the one that they share.
    shutil.copytree(repository, tmp_path / "copy")
    model = tmp_path / "copy" / PIPELINE_MODEL
    folder = model / version_of(read_config(model))
    assert not is_held(folder)
    # NFS locks only what is open for writing, and other file systems have no locks.
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(reason, "no lock")))
    assert is_held(folder) == held


def test_a_repository_needs_no_hard_links(
    tmp_path: Path, contract: Contract, network: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", Mock(side_effect=PermissionError(errno.EPERM, "Operation not permitted")))
    assert read_repository(write_repository(tmp_path, contract, network, golden)).keys() == {
        PIPELINE_MODEL,
        NETWORK_MODEL,
    }


def test_what_was_measured_of_the_server_comes_along(
    tmp_path: Path, contract: Contract, network: Path, golden: Golden
) -> None:
    (write_repository(tmp_path, contract, network, golden) / TUNING).write_text("measured")
    assert (write_repository(tmp_path, contract, network, golden) / TUNING).read_text() == "measured"


def test_a_release_that_cannot_be_held_holds_nothing(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def hold_one(folder: Path) -> int:
        if held:
            raise OSError(errno.EMFILE, "Too many open files", str(folder))
        held.append(hold(folder))
        return held[0]

    monkeypatch.setattr("deploy.server.release.hold", hold_one)
    with pytest.raises(ServerError, match="cannot be read: Too many open files"):
        Release(repository, ServerOptions())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(held[0])


def test_every_field_of_a_configuration_is_hashed(repository: Path) -> None:
    config = read_config(repository / PIPELINE_MODEL)
    assert config_fingerprint(config) == config.parameters["sha256"].string_value
    changed: list[Callable[[schema.ModelConfig], None]] = [
        lambda one: setattr(one, "max_batch_size", 2),
        lambda one: setattr(one.parameters["execution"], "string_value", "openvino bf16"),
        lambda one: setattr(one.parameters["contract"], "string_value", "{}"),
        lambda one: setattr(one.output[0], "name", "OTHER"),
        lambda one: setattr(one.dynamic_batching, "max_queue_delay_microseconds", 1),
    ]
    hashes = set()
    for change in changed:
        copy = schema.ModelConfig()
        copy.CopyFrom(config)
        change(copy)
        hashes.add(config_fingerprint(copy))
    assert len(hashes | {config_fingerprint(config)}) == 1 + len(changed)
