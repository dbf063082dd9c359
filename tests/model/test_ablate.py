"""Run the ablation on a handful of images: every arm trains and is scored, and a stopped run continues."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import PRESETS, ablate, build_model
from model.ablation import ARMS, Arm, PlainEncoder, scaled_dilations
from model.ablation.results import METRICS, Run, scored
from model.checkpoint import load_checkpoint
from model.training.trainer import Trainer
from tests.helpers.networks import SMALLEST
from tests.model.test_processes import small_folder

COMMAND = ["--preset", "tiny", "--seeds", "1", "--batch-size", "4", "--levels", "4095", "--output", "out"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "tiny", replace(SMALLEST, image_size=32))
    return ["--data", small_folder(tmp_path / "data", 20), *COMMAND]


def test_an_interrupted_run_goes_on_and_ends_with_every_arm_in_the_table(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablate, "plan_epochs", lambda *_, **__: 1)
    trained: list[str] = []
    run = Trainer.run

    def run_then_stop(trainer: Trainer, console: object) -> object:
        trained.append(trainer.output.name)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return run(trainer, console)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "run", run_then_stop)
    assert ablate.main([*command, "--budget", "9"]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert ablate.main([*command, "--budget", "9"]) == 0
    assert trained == [f"{arm.name}-seed0" for arm in (*ARMS[:3], *ARMS[2:])]
    report = json.loads(Path("out/ablation.json").read_text())
    table = Path("out/ablation.md").read_text()
    for arm in ARMS:
        runs = {arm.name: [Run(**run) for run in report["runs"][arm.name]]}
        metrics = [metric for metric in METRICS if scored(arm, metric, runs)]
        assert metrics == ["dice"] * arm.segment + ["auc"] * arm.classify
        for metric in metrics:
            low, high = runs[arm.name][0].bounds[metric]
            assert low <= runs[arm.name][0].scores[metric] <= high
            assert f"[{low:.3f}, {high:.3f}]" in table
        assert f"| {arm.title} |" in table
    assert load_checkpoint("out/base-seed0/best.safetensors").info.preprocessing.white_level == 4095
    assert Path("out/ablation.png").stat().st_size > 5000
    assert ablate.main([*command, "--budget", "10"]) == 1
    assert "give the same options" in capsys.readouterr().err


def test_a_budget_too_small_says_what_is_needed(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate.main([*command, "--budget", "0.001"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --budget must be at least ")
    assert "got 0.001" in error and len(error.splitlines()) == 1


def test_chosen_arms_train_for_the_epochs_that_are_given(command: list[str]) -> None:
    chosen = ["--epochs", "1", "--arm", "dilations-scaled", "--arm", "base"]
    assert ablate.main([*command, *chosen]) == 0
    report = json.loads(Path("out/ablation.json").read_text())
    assert list(report["runs"]) == ["base", "dilations-scaled"]
    assert report["setting"]["epochs"] == 1
    # At 32 px, a sixteenth of the paper's size, every dilation would be 1 or less.
    assert load_checkpoint("out/dilations-scaled-seed0/best.safetensors").info.config.dilations == (1, 1, 1)
    assert "without DFE" not in Path("out/ablation.md").read_text()


@pytest.mark.parametrize(
    ("size", "dilations"), [(512, (6, 12, 18)), (224, (3, 5, 8)), (128, (2, 3, 5)), (64, (1, 2, 2))]
)
def test_dilations_keep_their_share_of_the_map(size: int, dilations: tuple[int, ...]) -> None:
    assert scaled_dilations(size) == dilations


def test_levels_outside_16_bits_are_a_misuse(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        ablate.main([*command, "--budget", "9", "--levels", "255"])
    assert "argument --levels: must be 256 to 65535, got 255" in capsys.readouterr().err


@pytest.mark.parametrize("arm", ARMS, ids=[arm.name for arm in ARMS])
def test_an_arm_differs_from_the_base_where_it_says(arm: Arm) -> None:
    base, built = build_model(SMALLEST), arm.build(arm.config(SMALLEST))
    prediction = built.eval()(torch.randn(2, 3, 64, 64))
    assert prediction.segmentation.shape == (2, SMALLEST.seg_channels, 64, 64)
    assert prediction.classification.shape == (2, SMALLEST.labels)
    own, kept = dict(built.named_parameters()), dict(base.named_parameters())
    gone = {name.split(".")[0] for name in kept if name not in own or own[name].shape != kept[name].shape}
    expected = {"resnet": {"encoder"}, "no-dfe": {"dfe"}, "last-level": {"head"}, "all-levels": {"head"}}
    assert arm.name == "unet" or gone == expected.get(arm.name, set())


def test_the_plain_encoder_gives_maps_of_the_same_shapes() -> None:
    image = torch.randn(1, 3, 64, 64)
    plain, full = PlainEncoder(SMALLEST)(image), build_model(SMALLEST).encoder(image)
    assert [x.shape for x in plain] == [x.shape for x in full]
