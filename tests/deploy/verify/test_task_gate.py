"""Compare the task gate with scores taken one by one, and test its decision."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc

from data_pipeline import open_source
from deploy.engines import EngineOutput
from deploy.verify import Change
from deploy.verify.task_gate import Targets, broken_task_tolerances, open_images, score, task_changes
from tests.helpers.networks import SMALLEST, info_of
from tests.model.test_processes import small_folder

CLASSES, LABELS = ("background", "a", "b"), ("x", "y")


def test_the_images_are_those_that_the_training_was_validated_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = small_folder(tmp_path / "data", 20)
    trained = open_source(source, "validation", seed=1)
    config = replace(SMALLEST, seg_channels=1, labels=len(trained.labels))
    info = info_of(config, ("background", "lesion"), trained.labels, source)
    said: list[str] = []
    for training, same in (({"seed": 1}, True), ({"split_seed": 1, "seed": 7}, True), ({"seed": 0}, False)):
        found = open_images(replace(info, training=training), source, "validation", 100, said.append)
        assert ([one.image for one in found.records] == [one.image for one in trained.records]) == same
        # A folder's masks number what the checkpoint has names for.
        assert found.seg_classes == ("background", "lesion")
    assert said == []
    trained.records[0].image.write_bytes(b"")
    found = open_images(replace(info, training={"seed": 1}), source, "validation", 100, said.append)
    assert len(found.records) == len(trained.records) - 1 and said[0].startswith("left out 1 of 2 samples (validation)")


def random_output(seed: int, count: int = 40) -> EngineOutput:
    """Make up the masks and label probabilities of an engine."""
    random = np.random.default_rng(seed)
    return EngineOutput(
        random.integers(0, 3, (count, 8, 8)).astype(np.uint8),
        random.random((count, 2), np.float32),
        np.zeros((count, 3, 8, 8), np.float32),
    )


def random_targets(count: int = 40) -> Targets:
    """Make up targets, with one class missing in a quarter of the masks."""
    random = np.random.default_rng(9)
    masks = torch.from_numpy(random.integers(0, 3, (count, 8, 8)))
    masks[: count // 4][masks[: count // 4] == 2] = 0  # images without the class
    labels = torch.from_numpy((random.random((count, 2)) < 0.3).astype(np.float32))
    return Targets(masks=masks, labels=labels, seg_classes=CLASSES, label_names=LABELS)


def test_changes_are_differences_of_the_scores() -> None:
    targets, before, after = random_targets(), random_output(1), random_output(2)
    changes = task_changes(before, after, targets)
    old, new = (score(output, targets).compute() for output in (before, after))
    assert old and new
    for name, change in changes.items():
        assert change.value == pytest.approx(new[name] - old[name], abs=1e-6)
        assert change.low <= change.value <= change.high
    # Dice over the pixels of all images is not compared.
    assert set(changes) == {name for name in old if not name.startswith("pooled")}


def test_the_interval_is_that_of_resampled_images() -> None:
    targets, before, after = random_targets(), random_output(3), random_output(4)
    random, differences = np.random.default_rng(5), []
    for _ in range(400):
        index = random.integers(0, 40, 40)
        labels = targets.labels[index, 0].int()
        pair = [binary_auroc(torch.from_numpy(out.class_probs[index, 0]), labels) for out in (before, after)]
        differences.append(float(pair[1] - pair[0]))
    change = task_changes(before, after, targets)["auc/x"]
    low, high = np.percentile(differences, [2.5, 97.5])
    assert change.low == pytest.approx(low, abs=0.05)
    assert change.high == pytest.approx(high, abs=0.05)


def test_an_engine_that_changes_nothing_loses_nothing() -> None:
    targets, output = random_targets(), random_output(1)
    changes = task_changes(output, output, targets)
    assert set(changes.values()) == {Change(0.0, 0.0, 0.0)}
    assert not broken_task_tolerances(changes)


def test_a_score_that_no_image_defines_is_not_judged() -> None:
    targets = random_targets()
    empty = replace(targets, masks=torch.zeros_like(targets.masks))
    changes = task_changes(random_output(1), random_output(1), empty)
    assert "dice" not in changes and "accuracy" in changes
    assert not broken_task_tolerances(changes)


def test_what_is_lost_is_told_with_its_interval() -> None:
    changes = {"dice": Change(-0.006, -0.009, -0.003), "accuracy": Change(-0.009, -0.02, 0.0)}
    (line,) = broken_task_tolerances(changes)
    assert line == "dice fell by 0.0060 (95 % interval 0.0030 to 0.0090), more than 0.005"
    assert len(broken_task_tolerances({"dice": Change(0.1, 0, 0), "accuracy": Change(-0.011, 0, 0)})) == 1
