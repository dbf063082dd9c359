"""Write and read checkpoints: everything comes back, and what cannot be used is refused in one line."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model import MultiTaskResFormer
from model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from tests.helpers.networks import info_of


@pytest.fixture
def saved(network: MultiTaskResFormer, tmp_path: Path) -> Path:
    info = replace(
        info_of(network.config, ("background", "a", "b", "c"), ("x", "y", "z"), "synthetic:oct"), training={"seed": 7}
    )
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, Checkpoint(info, network.state_dict()))
    return path


def test_a_checkpoint_comes_back_rounded_to_fp16_at_most(saved: Path, network: MultiTaskResFormer) -> None:
    loaded = load_checkpoint(saved)
    assert loaded.info.config == network.config
    assert loaded.info.labels == ("x", "y", "z")
    assert loaded.info.training == {"seed": 7}
    for name, tensor in network.state_dict().items():
        expected = tensor.half().float() if tensor.ndim > 1 else tensor
        assert torch.equal(loaded.state[name], expected), name
    assert not loaded.build().training
    assert [path.name for path in saved.parent.iterdir()] == ["net.safetensors"]


def test_others_may_read_a_checkpoint_if_they_may_read_any_new_file(saved: Path) -> None:
    (saved.parent / "plain").touch()
    assert saved.stat().st_mode == (saved.parent / "plain").stat().st_mode


def test_random_weights_are_the_same_every_time() -> None:
    first, second = load_checkpoint("random:tiny"), load_checkpoint("random:tiny")
    assert all(torch.equal(tensor, second.state[name]) for name, tensor in first.state.items())


def test_unusable_files_are_refused_in_one_line(saved: Path, tmp_path: Path, network: MultiTaskResFormer) -> None:
    truncated, foreign, text = tmp_path / "cut", tmp_path / "foreign", tmp_path / "text"
    truncated.write_bytes(saved.read_bytes()[:-100])
    save_file({"weight": torch.zeros(3)}, foreign)
    text.write_text("hello")
    for path, reason in (
        (truncated, "cannot be read"),
        (foreign, "has format 'None', expected"),
        (text, "cannot be read"),
        (tmp_path / "absent", "does not exist"),
        (tmp_path, "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=reason) as error:
            load_checkpoint(path)
        assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_or_are_not_finite_are_refused(tmp_path: Path, network: MultiTaskResFormer) -> None:
    info = info_of(network.config, ("background", "a", "b", "c"), ("x", "y", "z"), "synthetic:oct")
    state = network.state_dict()
    path = tmp_path / "bad.safetensors"
    save_checkpoint(path, Checkpoint(info, {**state, "head.classify.1.bias": torch.zeros(9)}))
    with pytest.raises(CheckpointError, match=r"do not fit.*head.classify.1.bias"):
        load_checkpoint(path).build()
    save_checkpoint(path, Checkpoint(info, {**state, "head.classify.1.bias": torch.tensor([0.0, float("nan"), 1.0])}))
    with pytest.raises(CheckpointError, match=r"NaN.*head.classify.1.bias"):
        load_checkpoint(path)


def test_an_unknown_random_preset_is_refused() -> None:
    with pytest.raises(CheckpointError, match="must be one of"):
        load_checkpoint("random:huge")
