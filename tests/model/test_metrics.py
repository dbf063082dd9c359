"""Scores against counts made by hand."""

import numpy as np
import pytest
import torch

from model.metrics import TaskScores

CLASSES, LABELS = ("background", "a", "b"), ("x", "y")


def test_scores_against_counts_by_hand() -> None:
    rng = np.random.default_rng(0)
    found, truth = rng.integers(0, 3, (5, 6, 7)), rng.integers(0, 3, (5, 6, 7))
    truth[0][truth[0] == 2] = 0  # an image without class b
    probs, labels = rng.random((5, 2)), np.array([[0, 1], [1, 1], [0, 1], [1, 1], [1, 1]])
    scores = TaskScores(CLASSES, LABELS)
    for part in (slice(0, 2), slice(2, 5)):
        arrays = (torch.from_numpy(array[part]) for array in (found, probs, truth, labels))
        mask, prob, true_mask, label = arrays
        scores.update(mask, prob, true_mask, label)
    result = scores.compute()

    def dice(f: np.ndarray, t: np.ndarray) -> float:  # type: ignore[type-arg]
        return 2 * (f & t).sum() / (f.sum() + t.sum())

    assert result["dice/b"] == pytest.approx(
        np.mean([dice(found[i] == 2, truth[i] == 2) for i in range(1, 5)]), rel=1e-6
    )
    assert result["dice/a"] == pytest.approx(np.mean([dice(found[i] == 1, truth[i] == 1) for i in range(5)]), rel=1e-6)
    assert result["pooled_dice/b"] == pytest.approx(dice(found == 2, truth == 2))
    assert result["accuracy/x"] == pytest.approx(np.mean((probs[:, 0] > 0.5) == labels[:, 0]))
    positive, negative = probs[labels[:, 0] == 1, 0], probs[labels[:, 0] == 0, 0]
    assert result["auc/x"] == pytest.approx(np.mean(positive[:, None] > negative[None, :]), rel=1e-6)
    assert "auc/y" not in result  # only one value in the truth
    assert result["auc"] == result["auc/x"]


def test_scores_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        TaskScores(CLASSES, LABELS).compute()


def test_a_class_that_is_nowhere_is_left_out() -> None:
    scores = TaskScores(CLASSES, LABELS)
    blank = torch.zeros(1, 4, 4, dtype=torch.int64)
    scores.update(blank, torch.zeros(1, 2), blank, torch.zeros(1, 2))
    assert not [name for name in scores.compute() if "dice" in name]
