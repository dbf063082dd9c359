"""Train on a few real files: it learns, resumes to the bit, and stops where it must."""

import csv
import json
import math
import resource
import shlex
import signal
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import cast
from unittest.mock import Mock

import pytest
import torch
from PIL import Image
from rich.console import Console
from rich.progress import TaskID
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_pipeline import Batch, Dataset, open_source
from data_pipeline.prepare import prepare
from deploy.building.plan import contract_of
from model import PRESETS, MultiTaskResFormer, ablate, evaluate, train
from model.checkpoint import CheckpointError, load_checkpoint, write_tensors
from model.metrics import TaskScores
from model.training import EARLIER, TrainingError, TrainingOptions
from model.training.learner import BETAS, WEIGHT_DECAY
from model.training.processes import Processes
from model.training.trainer import Trainer, selection_score
from tests.helpers.networks import SMALLEST, info_of
from tests.helpers.samples import make_dataset

QUIET = Console(quiet=True)
OPTIONS = TrainingOptions(epochs=3, batch_size=4, learning_rate=3e-3, seed=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_source("synthetic:skin", "train", samples=8, cache=tmp_path_factory.mktemp("data"))


def trainer(data: Dataset, output: Path, options: TrainingOptions = OPTIONS) -> Trainer:
    """Set up a run of the smallest network."""
    output.mkdir(exist_ok=True)
    info = info_of(replace(SMALLEST, seg_channels=1), data.seg_classes, data.labels, "synthetic:skin")
    return Trainer(info, options, train=data, validation=data, output=output)


@pytest.fixture(scope="module")
def whole(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Train without an interruption."""
    run = trainer(data, tmp_path_factory.mktemp("whole"))
    run.run(QUIET)
    return run


def test_a_run_that_learns_its_weights_and_the_labels_late_resumes_to_the_bit(data: Dataset, tmp_path: Path) -> None:
    options = replace(OPTIONS, learned_weights=True, label_warmup=0.4, augmentation="skin")
    straight = trainer(data, tmp_path / "straight", options)
    straight.run(QUIET)
    # Stopped between the epochs, before the labels count.
    first = trainer(data, tmp_path / "stopped", options)
    first._epoch(6, Mock(requested=False), Mock(), cast(TaskID, 0))
    first._finish_epoch(QUIET)
    second = trainer(data, tmp_path / "stopped", options)
    second.resume()
    second.run(QUIET)
    expected, resumed = (load_file(run.output / "last.safetensors") for run in (straight, second))
    assert "loss/log_variances" in expected and bool(expected["loss/log_variances"].all())
    assert not [name for name, tensor in expected.items() if not torch.equal(tensor, resumed[name])]
    weights = [float(row["label_weight"]) for row in csv.DictReader((straight.output / "history.csv").open())]
    # As long as the labels do not count, only the weight of the mask moves.
    assert weights[-1] == pytest.approx(straight.learner.loss.label_weight) and weights[-1] != 0.25


def test_a_run_from_before_there_was_a_choice_is_resumed(data: Dataset, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=1, augmentation="basic")
    run = trainer(data, tmp_path, options)
    run.run(QUIET)
    path = tmp_path / "last.safetensors"
    with safe_open(path, framework="pt") as file:
        place = json.loads(file.metadata()["place"])
    for name in (*EARLIER, "images", "processes"):
        del place["settings"][name]
    write_tensors(path, load_file(path), {"place": json.dumps(place)})
    trainer(data, tmp_path, options).resume()
    with pytest.raises(CheckpointError, match="give the same options"):
        trainer(data, tmp_path, replace(options, augmentation="skin")).resume()


@pytest.mark.parametrize("steps", [2, 3], ids=["after an epoch", "in the middle of an epoch"])
def test_a_run_stopped_by_ctrl_c_and_resumed_ends_with_the_weights_of_an_uninterrupted_one(
    steps: int, whole: Trainer, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trainer(data, tmp_path)
    step = first.learner.step

    def step_then_ctrl_c(batch: Batch, number: int, total: int) -> float:
        if number == steps - 1:
            signal.raise_signal(signal.SIGINT)
        return step(batch, number, total)

    monkeypatch.setattr(first.learner, "step", step_then_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        first.run(QUIET)
    second = trainer(data, tmp_path)
    second.resume()
    assert second.loader.epoch * len(second.loader) + second.loader.position == steps
    second.run(QUIET)
    expected, resumed = (load_file(output / "last.safetensors") for output in (whole.output, tmp_path))
    assert not [name for name, tensor in expected.items() if not torch.equal(tensor, resumed[name])]
    assert (tmp_path / "history.csv").read_text() == (whole.output / "history.csv").read_text()


def test_what_a_run_leaves(whole: Trainer) -> None:
    rows = list(csv.DictReader((whole.output / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    best = load_checkpoint(whole.output / "best.safetensors")
    assert best.info.training["validation"] == whole.best
    assert Image.open(whole.output / "curves.png").width > 500
    events = EventAccumulator(str(whole.output / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([float(row["loss"]) for row in rows])


def test_a_disk_that_fills_while_saving_keeps_the_previous_state(whole: Trainer) -> None:
    path = whole.output / "last.safetensors"
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the kernel refuses the rest, as of a full disk
    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*File too large.*an older one is left as it was"):
            whole._save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert not list(whole.output.glob("*.tmp"))


def test_the_kept_weights_are_the_moving_average_and_gradients_are_clipped(data: Dataset, tmp_path: Path) -> None:
    run = trainer(data, tmp_path, replace(OPTIONS, classification_weight=1e4))
    expected = None
    weight, averaged = (
        cast(MultiTaskResFormer, network).decoder.classify.weight
        for network in (run.learner.network, run.learner.averaged)
    )
    for number, batch in enumerate(run.loader):
        run.learner.step(batch, number, 6)
        grads = [p.grad for p in run.learner.network.parameters() if p.grad is not None]
        assert float(torch.stack([grad.norm() for grad in grads]).norm()) == pytest.approx(1, abs=1e-4)
        now = weight.detach().clone()
        # The first step starts the average, so that the random first weights have no part in it.
        share = 1 if expected is None else 1 - (1 + number) / (10 + number)
        expected = now if expected is None else expected + share * (now - expected)
        torch.testing.assert_close(averaged.detach(), expected)


def test_the_fused_optimiser_takes_the_steps_of_the_plain_one(data: Dataset, tmp_path: Path) -> None:
    learner = trainer(data, tmp_path).learner
    parameters = list(learner.network.parameters())
    copies = [p.detach().contiguous().clone().requires_grad_() for p in parameters]
    plain = torch.optim.AdamW(copies, betas=BETAS, weight_decay=WEIGHT_DECAY, foreach=False)
    for number, batch in enumerate(trainer(data, tmp_path).loader):
        learner.step(batch, number, 6)
        for copy, parameter in zip(copies, parameters, strict=True):
            copy.grad = None if parameter.grad is None else parameter.grad.contiguous()
        plain.param_groups[0]["lr"] = learner.optimizer.param_groups[0]["lr"]
        plain.step()
    # It walks over memory, and the kernels are channels last: weights must not get the moments of others.
    assert any(not p.is_contiguous() for p in parameters)
    for copy, parameter in zip(copies, parameters, strict=True):
        torch.testing.assert_close(parameter, copy, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_cpu_computes_in_bfloat16_where_it_is_asked_to(data: Dataset, tmp_path: Path, bfloat16: bool) -> None:
    learner = trainer(data, tmp_path, replace(OPTIONS, bfloat16=bfloat16)).learner
    types: list[torch.dtype] = []
    learner.network.register_forward_hook(lambda module, inputs, output: types.append(output.segmentation.dtype))
    for number, batch in enumerate(trainer(data, tmp_path).loader):
        assert math.isfinite(learner.step(batch, number, 6))
    assert set(types) == {torch.bfloat16 if bfloat16 else torch.float32}
    # The weights and their average stay in full precision.
    assert {p.dtype for p in (*learner.network.parameters(), *learner.averaged.parameters())} == {torch.float32}


def test_the_average_takes_one_launch_and_waits_for_no_gpu(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, launches = trainer(data, tmp_path).learner, Mock(wraps=torch._foreach_lerp_)
    monkeypatch.setattr("torch._foreach_lerp_", launches)
    learner.average.update_parameters(learner.network)
    learner.average.update_parameters(learner.network)
    floating = [p for p in (*learner.network.parameters(), *learner.network.buffers()) if p.is_floating_point()]
    assert [len(call.args[0]) for call in launches.call_args_list] == [len(floating)]
    # What PyTorch passes as the count lies on the GPU, and would have to be waited for.
    learner._update_average([torch.zeros(1)], [torch.zeros(1)], cast(int, None))


def test_resuming_something_else_is_refused(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        trainer(data, tmp_path).resume()
    short = replace(OPTIONS, epochs=1)
    trainer(data, tmp_path, short).run(QUIET)
    with pytest.raises(CheckpointError, match="give the same options"):
        trainer(data, tmp_path).resume()
    deeper = trainer(data, tmp_path, short)
    deeper.info = replace(deeper.info, preprocessing=replace(deeper.info.preprocessing, white_level=4095))
    with pytest.raises(CheckpointError, match=r"with levels 65535 \(now 4095\); give the same options"):
        deeper.resume()
    several = trainer(data, tmp_path, short)
    several.processes = Processes(0, 2, torch.device("cpu"))
    with pytest.raises(CheckpointError, match=r"trained with processes 1 \(now 2\); give the same options"):
        several.resume()
    # The same images under labels of another order, and fewer of them.
    swapped = replace(data, labels=data.labels[::-1])
    for changed in (swapped, replace(data, records=data.records[:4])):
        with pytest.raises(CheckpointError, match=r"trained with images '.*; give the same options and data"):
            trainer(changed, tmp_path, short).resume()
    other = trainer(data, tmp_path, short)
    cast(MultiTaskResFormer, other.learner.network).decoder.classify = torch.nn.Conv2d(8, 2, 1)
    with pytest.raises(CheckpointError, match="another preset or data"):
        other.resume()
    kept = {"settings": {}, "loader": {"epoch": 0, "position": 0}, "losses": [], "history": [], "best": {}}
    for name, value in (("settings", []), ("loader", {}), ("losses", 5), ("history", {}), ("best", None)):
        write_tensors(tmp_path / "last.safetensors", {}, {"place": json.dumps({**kept, name: value})})
        with pytest.raises(CheckpointError, match=f"not a training state .*{name}"):
            trainer(data, tmp_path, short).resume()
    for place in ("no JSON", '{"settings": {}}'):
        write_tensors(tmp_path / "last.safetensors", {}, {"place": place})
        with pytest.raises(CheckpointError, match="not a training state"):
            trainer(data, tmp_path, short).resume()
    (tmp_path / "last.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a training state"):
        trainer(data, tmp_path, short).resume()


def test_a_finished_run_without_its_best_weights_is_not_resumed(data: Dataset, tmp_path: Path) -> None:
    short = replace(OPTIONS, epochs=1)
    trainer(data, tmp_path, short).run(QUIET)
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"best\.safetensors is missing, which this run had written"):
        trainer(data, tmp_path, short).resume()


def test_an_epoch_is_saved_before_its_validation(
    data: Dataset, whole: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trainer(data, tmp_path)

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    # As a second Ctrl-C does, which nobody holds back.
    monkeypatch.setattr("model.training.trainer.collect_scores", interrupt)
    with pytest.raises(KeyboardInterrupt):
        first.run(QUIET)
    monkeypatch.undo()
    second = trainer(data, tmp_path)
    second.resume()
    assert (second.loader.epoch, second.history) == (1, [])
    second.run(QUIET)
    assert (tmp_path / "history.csv").read_text() == (whole.output / "history.csv").read_text()


def test_of_epochs_without_a_score_the_last_is_kept(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(data, tmp_path, replace(OPTIONS, epochs=2, segmentation_weight=0))
    computed = TaskScores.compute
    monkeypatch.setattr(TaskScores, "compute", lambda self: {k: v for k, v in computed(self).items() if k != "auc"})
    run.run(QUIET)
    assert load_checkpoint(tmp_path / "best.safetensors").info.training["epoch"] == 2


def test_right_masks_without_a_lesion_are_better_than_false_alarms() -> None:
    lowest = selection_score({"pooled_dice": 0.0, "auc": 1.0}, OPTIONS)
    assert selection_score({"auc": 1.0}, OPTIONS) > selection_score({"pooled_dice": 0.9, "auc": 1.0}, OPTIONS) > lowest


def test_what_was_saved_is_known_when_a_reader_is_gone(data: Dataset, tmp_path: Path) -> None:
    closed = Mock(spec=Console, is_terminal=False, quiet=False)
    run = trainer(data, tmp_path, replace(OPTIONS, epochs=1))
    closed.print.side_effect = BrokenPipeError
    run._epoch(2, Mock(requested=False), Mock(), cast(TaskID, 0))
    with pytest.raises(BrokenPipeError):
        run._finish_epoch(closed)
    again = trainer(data, tmp_path, replace(OPTIONS, epochs=1))
    again.resume()
    assert len(again.history) == 1 and (tmp_path / "best.safetensors").is_file()


def test_a_loss_that_is_not_finite_stops_with_the_files(data: Dataset, tmp_path: Path) -> None:
    broken = trainer(data, tmp_path)
    last = cast(MultiTaskResFormer, broken.learner.network).head.classify[1]
    torch.nn.init.constant_(cast(torch.nn.Linear, last).bias, float("nan"))
    with pytest.raises(TrainingError, match=r"the loss became NaN on .*jpg"):
        broken.run(QUIET)


def test_the_commands_train_and_evaluate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "tiny", SMALLEST)
    monkeypatch.setattr("data_pipeline.sources.synthetic.DEFAULT_SAMPLES", {"train": 4, "validation": 4, "test": 4})
    arguments = ["--data", "synthetic:oct", "--preset", "tiny", "--output", "out", "--epochs", "1"]
    assert train.main([*arguments, "--levels", "4095"]) == 0
    best = load_checkpoint("out/best.safetensors")
    assert best.info.preprocessing.white_level == 4095
    assert contract_of(best.info, max_batch=1).preprocessing == best.info.preprocessing
    assert best.info.seg_classes == ("background", "IRF", "SRF", "PED")
    capsys.readouterr()
    assert train.main([*arguments, "--levels", "4095"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: out/last.safetensors is of a run before: add --resume") and error.count("\n") == 1
    assert best.info.training["source"] == "synthetic:oct" and best.info.training["split_seed"] is None
    scoring = ["--checkpoint", "out/best.safetensors", "--output", "out", "--samples", "4"]
    assert evaluate.main([*scoring, "--data", "synthetic:oct"]) == 0
    assert '"pooled_dice"' in Path("out/metrics.json").read_text(encoding="utf-8")
    capsys.readouterr()
    assert evaluate.main([*scoring, "--data", "synthetic:skin"]) == 1
    assert capsys.readouterr().err == (
        "error: the data's mask classes must be the checkpoint's background, IRF, SRF, PED; got background, lesion\n"
    )
    for bad in (["--data", "folder:absent"], ["--checkpoint", "absent"]):
        assert evaluate.main([*scoring, "--data", "synthetic:oct", *bad]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("resume", ["--resume", "--res"])
def test_a_resumed_run_is_made_by_the_command_of_an_uninterrupted_one(
    resume: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(PRESETS, "tiny", SMALLEST)
    monkeypatch.setattr("data_pipeline.sources.synthetic.DEFAULT_SAMPLES", {"train": 4, "validation": 4})
    output = tmp_path / "a run"
    command = ["--data", "synthetic:oct", "--preset", "tiny", "--epochs", "1", "--output", str(output)]
    with monkeypatch.context() as stopped:
        stopped.setattr("model.training.trainer.collect_scores", interrupt)
        assert train.main(command) == 130
    assert train.main([*command, resume]) == 0
    made_by = load_checkpoint(output / "best.safetensors").info.training["command"]
    assert shlex.split(made_by) == ["python", "-m", "model.train", *command]


def test_a_trial_validates_on_a_share_of_the_images() -> None:
    assert [train.validation_samples(count) for count in (4, 64, 999)] == [8, 12, 199]
    # A full run, as those of the shipped weights were, takes the source's whole split.
    assert [train.validation_samples(count) for count in (None, 1000, 1500)] == [None, None, None]


@pytest.mark.parametrize("command", [train, ablate], ids=["train", "ablate"])
def test_prepared_splits_with_swapped_labels_are_refused_before_training(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = make_dataset(tmp_path, 4)
    for split, labels in {"train": ("odd", "even"), "validation": ("even", "odd"), "test": ("odd", "even")}.items():
        prepare(replace(source, labels=labels), 32, tmp_path / "out" / split)
    assert command.main(["--data", "prepared:out", "--preset", "tiny", "--output", "run", "--epochs", "1"]) == 1
    assert capsys.readouterr().err == (
        "error: prepared:out: all splits must have the same labels, train has odd, even and validation has even, odd; "
        "prepare both with the same options\n"
    )
