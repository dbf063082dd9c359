"""Write and read checkpoints: everything comes back, and what cannot be used is refused in one line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import save_file

from data_pipeline.spec import Thresholds
from model import MultiTaskResFormer
from model.calibration import Calibration
from model.checkpoint import FORMAT, Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from tests.helpers.damage import damaged
from tests.helpers.networks import SMALLEST, info_of

INFO = info_of(SMALLEST, ("background", "a", "b", "c"), ("x", "y", "z"), "synthetic:oct")
CALIBRATION = Calibration(
    temperatures=(2.0, 0.5, 1.25),
    thresholds=Thresholds(sensitive=(0.1, 0.2, 0.5), specific=(0.7, 0.9, 0.5), rate=0.95),
    images=200,
)
CALIBRATED = replace(INFO, calibration=CALIBRATION)


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
        (foreign, "has format None, expected"),
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
    broken = {**state, "head.classify.1.bias": torch.tensor([0.0, float("nan"), 1.0])}
    with pytest.raises(CheckpointError, match=r"NaN.*head.classify.1.bias"):
        save_checkpoint(path, Checkpoint(info, broken))
    save_file(broken, path, metadata={"format": FORMAT, "info": info.to_json()})
    with pytest.raises(CheckpointError, match=r"NaN.*head.classify.1.bias"):
        load_checkpoint(path)
    whole = {**state, "head.classify.1.bias": torch.ones(3, dtype=torch.int8)}
    save_file(whole, path, metadata={"format": FORMAT, "info": info.to_json()})
    with pytest.raises(CheckpointError, match=r"got int8 in 1 tensors, first in head.classify.1.bias; save them as"):
        load_checkpoint(path)


def test_a_weight_that_fp16_cannot_hold_stays_as_it_is(tmp_path: Path, network: MultiTaskResFormer) -> None:
    info = info_of(network.config, ("background", "a", "b", "c"), ("x", "y", "z"), "synthetic:oct")
    state = network.state_dict()
    state["head.classify.1.weight"] = state["head.classify.1.weight"].clone()
    state["head.classify.1.weight"][0, 0] = 1e5
    save_checkpoint(tmp_path / "large.safetensors", Checkpoint(info, state))
    loaded = load_checkpoint(tmp_path / "large.safetensors").state
    assert torch.equal(loaded["head.classify.1.weight"], state["head.classify.1.weight"])


def with_metadata(path: Path, text: str) -> Path:
    """Write a checkpoint of no network with this text as its metadata."""
    save_file({"weight": torch.zeros(1)}, path, metadata={"format": FORMAT, "info": text})
    return path


def one_line_of(path: Path) -> str:
    """Return the message by which the checkpoint is refused."""
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400
    return message


def set_to(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that sets what lies under the keys."""

    def change(fields: dict[str, Any]) -> None:
        *outer, last = keys
        for key in outer:
            fields = fields[key]
        fields[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to("labels", value=["x", "y"]), "labels must be 3 names for this network, got ('x', 'y')"),
        (set_to("labels", value=["x", "y", "x"]), "labels must be different names, got 'x repeated'"),
        (set_to("labels", value="xyz"), "labels must be 1 to 1000 names, got 'xyz'"),
        (set_to("labels", 1, value=None), "each of labels must be one line of text, got None"),
        (set_to("labels", 1, value=""), "each of labels must be one line of text, got ''"),
        (set_to("labels", 1, value="a\nb"), r"each of labels must be one line of text, got 'a\nb'"),
        (set_to("labels", 1, value="\x1b[2J"), r"each of labels must be one line of text, got '\x1b[2J'"),
        (set_to("labels", 1, value="\ud800"), r"each of labels must be one line of text, got '\ud800'"),
        (set_to("seg_classes", value=["background", "a"]), "seg_classes must be 4 names for this network"),
        (set_to("seg_classes", 2, value="a"), "seg_classes must be different names, got 'a repeated'"),
        (set_to("data", value=3), "data must be the text of a data source, got 3"),
        (set_to("training", value=7), "training must be a JSON object, got 7"),
        (set_to("mean", value=[0.5, 0.5]), "mean must be 3 numbers from 0 to 1, got (0.5, 0.5)"),
        (set_to("mean", 0, value=float("nan")), "mean must be 3 numbers from 0 to 1, got (nan, "),
        (set_to("mean", 0, value=True), "mean must be 3 numbers from 0 to 1, got (True, "),
        (set_to("std", 1, value=0), "std must be 3 numbers from 0.0001 to 1, got (0.229, 0, 0.225)"),
        (set_to("std", 1, value="0.2"), "std must be 3 numbers from 0.0001 to 1, got (0.229, '0.2', 0.225)"),
        (set_to("levels", value=4095.0), "(levels in files) must be a whole number from 1 to 65535, got 4095.0"),
        (set_to("levels", value=None), "(levels in files) must be a whole number from 1 to 65535, got None"),
        (set_to("config", value=7), "config must be a JSON object, got 7"),
        (set_to("config", "labels", value=True), "labels must be a whole number from 1 to 1000, got True"),
        (set_to("config", "head_dim", value=3), "head_dim must be a divisor of 8, got 3"),
        (set_to("config", "extra", value=1), "alone, got ['extra']"),
        (set_to("extra", value=1), "alone, got ['extra']"),
        (set_to("calibration", value=None), "calibration must be a JSON object, got None"),
        (set_to("calibration", "extra", value=1), "calibration must be an object of temperatures, thresholds, images"),
        (set_to("calibration", "images", value=0), "images must be a whole number above 0, got 0"),
        (
            set_to("calibration", "temperatures", value=[1, 1]),
            "thresholds must be 2 pairs, one for each of temperatures",
        ),
        (
            set_to("calibration", "temperatures", 0, value=0),
            "temperatures must be numbers from 0.05 to 20, got (0, 0.5, ",
        ),
        (set_to("calibration", "temperatures", value=1.5), "temperatures must be numbers from 0.05 to 20, got 1.5"),
        (set_to("calibration", "thresholds", value=[]), "thresholds must be a JSON object, got ()"),
        (set_to("calibration", "thresholds", "rate", value="high"), "rate must be a number from 0.5 to 1, got 'high'"),
        (set_to("calibration", "thresholds", "sensitive", 0, value=0.8), "specific must be at or above sensitive"),
        (
            set_to("calibration", "thresholds", "specific", 1, value=2),
            "specific must be numbers from 0 to 1, got (0.7, 2",
        ),
        (
            set_to("calibration", "thresholds", "specific", value=[1]),
            "specific must be 3 numbers, one for each of sensi",
        ),
        (
            lambda fields: fields["calibration"]["thresholds"].pop("rate"),
            "thresholds must be an object with rate, got ",
        ),
        (lambda fields: fields.pop("mean"), "the metadata must be an object with mean, got "),
        (lambda fields: fields["config"].pop("design"), "config must be an object with design, got "),
    ],
)
def test_each_field_of_the_metadata_is_checked(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    fields = json.loads(CALIBRATED.to_json())
    change(fields)
    assert message in one_line_of(with_metadata(tmp_path / "changed.safetensors", json.dumps(fields)))


@pytest.mark.parametrize("text", ["", "null", "[]", '"x"', "{", "[" * 100_000, "1" * 5000])
def test_metadata_that_is_no_object_is_refused(text: str, tmp_path: Path) -> None:
    message = one_line_of(with_metadata(tmp_path / "changed.safetensors", text))
    assert "the metadata must be a JSON object, got " in message


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(damaged(json.loads(CALIBRATED.to_json())))
def test_damaged_metadata_are_read_as_they_are_or_refused(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]
) -> None:
    path = with_metadata(tmp_path_factory.getbasetemp() / "damaged.safetensors", json.dumps(fields))
    try:
        info = load_checkpoint(path).info
    except CheckpointError:
        one_line_of(path)
        return
    # The first checkpoints had no "levels", and a decoder of one kind.
    config = {"full_resolution": False, **fields["config"]}
    assert json.dumps(json.loads(info.to_json()), sort_keys=True) == json.dumps(
        {"levels": 65535, **fields, "config": config}, sort_keys=True
    )


def test_a_calibration_comes_back_and_files_without_one_are_as_they_always_were(tmp_path: Path) -> None:
    path = with_metadata(tmp_path / "calibrated.safetensors", CALIBRATED.to_json())
    assert load_checkpoint(path).info == CALIBRATED
    assert "calibration" not in json.loads(INFO.to_json())
    assert load_checkpoint(with_metadata(path, INFO.to_json())).info.calibration is None
    fewer = replace(CALIBRATION, temperatures=(1.0,), thresholds=Thresholds(sensitive=(0,), specific=(1,), rate=0.95))
    with pytest.raises(ValueError, match=r"^temperatures must be 3 for this network, got \(1.0,\)$"):
        replace(INFO, calibration=fewer)


def test_checkpoints_from_before_the_decoder_had_a_choice_are_read(tmp_path: Path) -> None:
    fields = json.loads(INFO.to_json())
    del fields["config"]["full_resolution"]
    assert load_checkpoint(with_metadata(tmp_path / "old.safetensors", json.dumps(fields))).info == INFO


def test_an_unknown_random_preset_is_refused() -> None:
    with pytest.raises(CheckpointError, match="must be one of"):
        load_checkpoint("random:huge")
