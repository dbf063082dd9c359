"""Compare scores with counts made by hand."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.metrics import TaskScores

CLASSES, LABELS = ("background", "a", "b"), ("x", "y")


def test_scores_against_counts_by_hand() -> None:
    rng = np.random.default_rng(0)
    predicted, target = rng.integers(0, 3, (5, 6, 7)), rng.integers(0, 3, (5, 6, 7))
    target[0][target[0] == 2] = 0  # an image without class b
    probs, labels = rng.random((5, 2)), np.array([[0, 1], [1, 1], [0, 1], [1, 1], [1, 1]])
    scores = TaskScores(CLASSES, LABELS)
    # In two parts, as batches arrive.
    for part in (slice(0, 2), slice(2, 5)):
        arrays = (torch.from_numpy(array[part]) for array in (predicted, probs, target, labels))
        mask, prob, target_mask, label = arrays
        scores.update(mask, prob, target_mask, label)
    result = scores.compute()

    def dice(p: NDArray[np.bool_], t: NDArray[np.bool_]) -> float:
        return float(2 * (p & t).sum() / (p.sum() + t.sum()))

    dice_b = [dice(predicted[i] == 2, target[i] == 2) for i in range(1, 5)]
    dice_a = [dice(predicted[i] == 1, target[i] == 1) for i in range(5)]
    assert result["dice/b"] == pytest.approx(np.mean(dice_b), rel=1e-6)
    assert result["dice/a"] == pytest.approx(np.mean(dice_a), rel=1e-6)
    assert result["pooled_dice/b"] == pytest.approx(dice(predicted == 2, target == 2))
    assert result["accuracy/x"] == pytest.approx(np.mean((probs[:, 0] > 0.5) == labels[:, 0]))
    positive, negative = probs[labels[:, 0] == 1, 0], probs[labels[:, 0] == 0, 0]
    assert result["auc/x"] == pytest.approx(np.mean(positive[:, None] > negative[None, :]), rel=1e-6)
    assert "auc/y" not in result  # only one value in the target
    assert result["auc"] == result["auc/x"]


def test_scores_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        TaskScores(CLASSES, LABELS).compute()


def test_a_class_that_is_nowhere_is_left_out() -> None:
    scores = TaskScores(CLASSES, LABELS)
    blank = torch.zeros(1, 4, 4, dtype=torch.int64)
    scores.update(blank, torch.zeros(1, 2), blank, torch.zeros(1, 2))
    assert not [name for name in scores.compute() if "dice" in name]
