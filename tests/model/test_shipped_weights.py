"""Compare the shipped weights with what a threshold or colour alone tells of the generated images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline import Dataset, open_source
from model.checkpoint import load_checkpoint
from model.evaluation import score_network
from model.metrics import TaskScores
from tests.data_pipeline.test_synthetic import colour_histogram, dice, fit_softmax

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "model" / "weights"
CACHE = ROOT / "build" / "data"  # shared with the commands: these images are drawn once


def network_scores(name: str, data: Dataset) -> dict[str, float]:
    """Score the shipped weights of that name."""
    checkpoint = load_checkpoint(WEIGHTS / f"{name}.safetensors")
    info = checkpoint.info
    assert (info.seg_classes, info.labels) == (data.seg_classes, data.labels)
    return score_network(checkpoint.build(), data, info.preprocessing)


def threshold_dice(data: Dataset) -> float:
    """Return the mean Dice of the first class under the best global threshold, chosen on these very images."""
    pairs = [(np.asarray(Image.open(r.image).convert("L")), np.asarray(Image.open(r.mask)) == 1) for r in data.records]
    pairs = [(image, mask) for image, mask in pairs if mask.any()]
    sides = [(level, below) for level in range(8, 250, 11) for below in (True, False)]
    return max(
        float(np.mean([dice((image < level) == below, mask) for image, mask in pairs])) for level, below in sides
    )


def test_the_example_of_the_guide_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "model" / "README.md").read_text()
    example = guide.split("```python\n")[1].split("```")[0]
    # The paths of the guide are those of the repository.
    monkeypatch.chdir(ROOT)
    exec(example, {})


@pytest.mark.parametrize("name", ["skin-tiny", "skin-tiny-224", "oct-tiny"])
def test_the_masks_are_far_better_than_a_threshold(name: str) -> None:
    data = open_source(f"synthetic:{name.split('-')[0]}", "test", samples=20, cache=CACHE)
    network = network_scores(name, data)["dice"]
    assert network > 0.93
    assert network > threshold_dice(data) + 0.2


@pytest.mark.slow
def test_the_labels_are_far_better_than_colour_alone() -> None:
    """Compare with a linear model on colour histograms of the training split, by mean AUC on the test split."""
    train, test = (open_source("synthetic:skin", split, samples=500, cache=CACHE) for split in ("train", "test"))
    features, kinds = (
        [
            np.stack([np.append(colour_histogram(np.asarray(Image.open(r.image))), 1.0) for r in d.records])
            for d in (train, test)
        ],
        [np.array([int(np.argmax(r.labels)) for r in d.records]) for d in (train, test)],
    )
    linear = np.exp(features[1] @ fit_softmax(features[0], kinds[0], steps=2000))
    scores = TaskScores(test.seg_classes, test.labels)
    # Only the labels are scored here, on masks without a class.
    blank = torch.zeros(len(kinds[1]), 4, 4, dtype=torch.int64)
    scores.update(blank, torch.from_numpy(linear / linear.sum(1, keepdims=True)), blank, torch.eye(3)[kinds[1]])
    network = network_scores("skin-tiny", test)["auc"]
    assert network > 0.95
    assert network > scores.compute()["auc"] + 0.2
