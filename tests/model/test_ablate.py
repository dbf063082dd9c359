"""Run the ablation on a handful of images: every arm trains and is scored, and a stopped run continues."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model import PRESETS, ablate, build_model
from model.ablation import ARMS, Arm, PlainEncoder, count_parameters, equal_unet, scaled_dilations, with_plain_encoder
from model.ablation.results import METRICS, Run, against_base, last_gain, pooled, score_run, scored
from model.bootstrap import interval, over_seeds
from model.checkpoint import load_checkpoint
from model.metrics import TaskScores
from model.training import EARLIER
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
    default = [arm for arm in ARMS if not arm.extra and arm.name != "half-resolution"]
    assert trained == [f"{arm.name}-seed0" for arm in (*default[:3], *default[2:])]
    report = json.loads(Path("out/ablation.json").read_text(encoding="utf-8"))
    table = Path("out/ablation.md").read_text(encoding="utf-8")
    for arm in default:
        runs = {arm.name: [Run(**run) for run in report["runs"][arm.name]]}
        metrics = [metric for metric in METRICS if scored(arm, metric, runs)]
        assert metrics == ["dice"] * arm.segment + ["auc"] * arm.classify
        for metric in metrics:
            # Of one seed the intervals are those over the images.
            low, high = runs[arm.name][0].bounds[metric]
            assert low <= runs[arm.name][0].scores[metric] <= high
            assert f"[{low:.3f}, {high:.3f}]" in table
        assert f"| {arm.title} |" in table
    assert load_checkpoint("out/base-seed0/best.safetensors").info.preprocessing.white_level == 4095
    assert all(Path(f"out/{name}.png").stat().st_size > 5000 for name in ("ablation", "validation"))
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
    report = json.loads(Path("out/ablation.json").read_text(encoding="utf-8"))
    assert list(report["runs"]) == ["base", "dilations-scaled"]
    assert report["setting"]["epochs"] == 1
    # At 32 px, a sixteenth of the paper's size, every dilation would be 1 or less.
    assert load_checkpoint("out/dilations-scaled-seed0/best.safetensors").info.config.dilations == (1, 1, 1)
    assert "without DFE" not in Path("out/ablation.md").read_text(encoding="utf-8")


def test_an_arm_that_is_the_preset_itself_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate.main([*command, "--epochs", "1", "--arm", "base", "--arm", "half-resolution"]) == 1
    error = capsys.readouterr().err
    assert error == "error: --arm half-resolution is what the preset tiny has itself; leave it out\n"
    assert not Path("out/base-seed0").exists()


def test_arms_differ_in_the_weight_of_the_labels(command: list[str]) -> None:
    names = ("labels-2", "labels-learned", "labels-late")
    arms = [part for name in names for part in ("--arm", name)]
    assert ablate.main([*command, "--epochs", "1", *arms]) == 0
    records = {name: load_checkpoint(f"out/{name}-seed0/best.safetensors").info.training for name in names}
    assert [records[name]["classification_weight"] for name in names] == [2, 0.25, 0.25]
    assert [records[name]["learned_weights"] for name in names] == [False, True, False]
    assert [records[name]["label_warmup"] for name in names] == [0, 0, 0.3]


def test_runs_of_before_the_seeds_were_resampled_are_scored_again_and_not_trained(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [*command, "--epochs", "1", "--arm", "base", "--augmentation", "basic"]
    assert ablate.main(chosen) == 0
    table = Path("out/ablation.md").read_text(encoding="utf-8")
    plan, result = Path("out/plan.json"), Path("out/base-seed0/test.json")
    kept = json.loads(plan.read_text(encoding="utf-8"))
    plan.write_text(json.dumps({name: value for name, value in kept.items() if name not in EARLIER}), encoding="utf-8")
    scores = json.loads(result.read_text(encoding="utf-8"))
    result.write_text(json.dumps({name: scores[name] for name in ("scores", "bounds")}), encoding="utf-8")
    monkeypatch.setattr("model.training.learner.Learner.step", None)
    assert ablate.main(chosen) == 0
    assert Path("out/ablation.md").read_text(encoding="utf-8") == table


def test_intervals_hold_what_images_and_seeds_change() -> None:
    rng = np.random.default_rng(0)
    # Three seeds 0.1 apart, whose images move them by a tenth of that.
    seeds = [0.7 + 0.1 * seed + np.concatenate([[0], rng.normal(0, 0.01, 1000)]) for seed in range(3)]
    value, low, high = interval(over_seeds(seeds))
    assert value == pytest.approx(0.8)
    assert 0.68 < low < 0.75 and 0.85 < high < 0.92
    # An arm that is 0.05 better on every draw is so without doubt, whatever seeds are drawn.
    runs = {arm: [_run(own + gain) for own in seeds] for arm, gain in (("base", 0), ("parallel", 0.05))}
    difference = against_base(next(arm for arm in ARMS if arm.name == "parallel"), "dice", runs)
    np.testing.assert_allclose(interval(difference), 0.05, atol=1e-9)
    assert not len(against_base(ARMS[0], "dice", runs))


def test_draws_without_a_rare_label_are_null_in_json() -> None:
    scores = TaskScores(("background", "a"), ("x", "rare"))
    labels = torch.zeros(40, 2)
    labels[::2, 0], labels[:2, 1] = 1, 1
    masks = torch.ones(40, 4, 4, dtype=torch.uint8)
    labels[2:] = 0
    scores.update(masks, torch.rand(40, 2), masks, labels)
    run = score_run(scores, [], 1)
    # Both labels are rare: some draws have neither.
    assert None in run.resampled["auc"]
    again = Run(**json.loads(json.dumps(asdict(run), allow_nan=False)))
    assert again.resampled == run.resampled
    drawn = pooled(ARMS[0], "auc", {"base": [run]})
    assert np.isnan(drawn).any() and np.isfinite(interval(drawn)).all()


def _run(drawn: NDArray[np.float64]) -> Run:
    curve: list[float | None] = [None, 0.1, 0.5, 0.7, 0.72, 0.71]
    resampled, scores = {"dice": list(drawn.tolist())}, {"dice": float(drawn[0])}
    return Run(scores=scores, bounds={}, resampled=resampled, validation={"dice": curve}, parameters=1)


def test_the_last_gain_tells_whether_an_arm_has_arrived() -> None:
    runs = {"base": [_run(np.ones(3))]}
    assert last_gain(ARMS[0], "dice", runs) == pytest.approx(0.02)
    assert last_gain(ARMS[0], "auc", runs) is None
    # Of one epoch nothing comes before the last third.
    runs["base"][0].validation["dice"][:] = [0.5]
    assert last_gain(ARMS[0], "dice", runs) is None


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_the_unet_has_as_many_parameters(preset: str) -> None:
    config = PRESETS[preset]
    own, other = count_parameters(build_model(config)), count_parameters(equal_unet(config))
    assert abs(other / own - 1) < 0.03


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
    expected |= {"full-resolution": {"decoder"}}
    assert arm.name != "half-resolution" or arm.repeats_base(SMALLEST)
    assert arm.name == "unet" or gone == expected.get(arm.name, set())


def test_the_plain_encoder_begins_as_the_encoder_does() -> None:
    # Weights of another size from the start would be a second difference.
    own, plain = (
        network.get_submodule("encoder")
        for network in (build_model(PRESETS["tiny"]), with_plain_encoder(PRESETS["tiny"]))
    )
    spreads = [
        {
            name.replace(".res.", "."): weight.std().item()
            for name, weight in encoder.named_parameters()
            if name.endswith("conv1.conv.weight")
        }
        for encoder in (own, plain)
    ]
    assert spreads[0].keys() == spreads[1].keys()
    for name, spread in spreads[0].items():
        assert spreads[1][name] == pytest.approx(spread, rel=0.15), name


def test_the_plain_encoder_gives_maps_of_the_same_shapes() -> None:
    image = torch.randn(1, 3, 64, 64)
    plain, full = PlainEncoder(SMALLEST)(image), build_model(SMALLEST).encoder(image)
    assert [x.shape for x in plain] == [x.shape for x in full]
