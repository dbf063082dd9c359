"""Score masks and label probabilities against their targets, in the same way for PyTorch and for every engine."""

from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import compute_dice
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from model.bootstrap import (
    Array,
    Groups,
    count_once,
    interval,
    resample,
    weighted_auc,
    weighted_mean,
    weighted_ratio,
    with_means,
)


class TaskScores:
    """Collect batches, then compute one flat dictionary of scores in [0, 1].

    dice/CLASS: mean over the images that show the class.
    pooled_dice/CLASS: over the pixels of all images, so that false alarms on images without it count.
    accuracy/LABEL: at a probability of 0.5.
    auc/LABEL: area under the ROC curve, left out where the target has one value only.
    dice, pooled_dice, accuracy, auc: the means of these.
    """

    def __init__(self, seg_classes: Sequence[str], labels: Sequence[str]) -> None:
        """Prepare to score these classes, of which the first is the background and not scored, and labels."""
        self.classes, self.labels = tuple(seg_classes[1:]), tuple(labels)
        # Counts of every image, not masks: 1,000 resamples need nothing else, and memory does not grow with the pixels.
        self._dice: list[Tensor] = []
        self._overlap: list[Tensor] = []
        self._area: list[Tensor] = []
        self._probs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, mask: Tensor, class_probs: Tensor, target_mask: Tensor, target_labels: Tensor) -> None:
        """Collect one batch.

        Args:
            mask: predicted class indices (B, H, W).
            class_probs: predicted label probabilities (B, C) in [0, 1].
            target_mask: target class indices (B, H, W).
            target_labels: target labels (B, C), 0 or 1.
        """
        predicted, target = (one_hot(masks, len(self.classes) + 1) for masks in (mask, target_mask))
        # `ignore_empty` gives NaN, which the means leave out, where the target does not show a class.
        self._dice.append(compute_dice(predicted, target, ignore_empty=True))
        self._overlap.append((predicted & target).sum(dim=(2, 3)))
        self._area.append((predicted.int() + target).sum(dim=(2, 3)))
        self._probs.append(class_probs.float())
        self._targets.append(target_labels)

    def compute(self) -> dict[str, float]:
        """Return the scores of everything collected.

        Raises ValueError where nothing was.
        """
        if not self._dice:
            raise ValueError("at least one batch must be collected before scores are computed, got 0")
        groups = self.weighted(count_once(sum(map(len, self._dice))))
        scores = with_means(groups)
        # Each mean with its members behind it: the order of the columns of history.csv.
        names = [name for group in groups for name in scores if name.split("/")[0] == group]
        return {name: float(scores[name][0]) for name in names}

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Return 95 % bootstrap intervals of the scores of `resampled`."""
        return {name: interval(values)[1:] for name, values in self.resampled().items()}

    def resampled(self) -> dict[str, Array]:
        """Return `dice` and `auc`, and those of each class and label, under the weights of `bootstrap.resample`.

        The weights are the same whenever as many images are scored, so that networks can be compared draw by draw.
        """
        groups = self.weighted(resample(range(sum(map(len, self._dice)))))
        return with_means({name: groups[name] for name in ("dice", "auc")})

    def labels_collected(self) -> tuple[Array, NDArray[np.bool_]]:
        """Return the predicted probabilities (N, C) and the targets (N, C) of the labels."""
        return _joined(self._probs), _joined(self._targets) > 0.5

    def weighted(self, weights: Array) -> Groups:
        """Return the four groups of scores under each row of image weights (R, N)."""
        dice, overlap, area = (_joined(parts) for parts in (self._dice, self._overlap, self._area))
        labels = label_scores(*self.labels_collected(), self.labels, weights)
        return {
            "dice": mean_scores(dice, self.classes, weights),
            "pooled_dice": pooled_dice(overlap, area, self.classes, weights),
            "accuracy": labels["accuracy"],
            "auc": labels["auc"],
        }


def mean_scores(values: Array, names: Sequence[str], weights: Array) -> dict[str, Array]:
    """Return the weighted means of the columns of (N, K) values by name, where NaN values are left out."""
    return {name: weighted_mean(values[:, index], weights) for index, name in enumerate(names)}


def pooled_dice(overlap: Array, area: Array, names: Sequence[str], weights: Array) -> dict[str, Array]:
    """Return Dice over the pixels of all images by class.

    Args:
        overlap: pixels (N, K) that are of the class in both masks.
        area: pixels (N, K) that are of the class in the one mask, plus those in the other.
        names: of the K classes.
        weights: of the images, (R, N).
    """
    return {name: weighted_ratio(2.0 * overlap[:, index], area[:, index], weights) for index, name in enumerate(names)}


def label_scores(probs: Array, target: NDArray[np.bool_], names: Sequence[str], weights: Array) -> Groups:
    """Return accuracy, sensitivity, specificity (at a probability of 0.5) and AUC of (N, C) labels by name."""
    predicted = probs > 0.5
    return {
        "accuracy": mean_scores((predicted == target).astype(np.float64), names, weights),
        **rates(predicted, target, names, weights),
        "auc": {name: weighted_auc(probs[:, i], target[:, i], weights) for i, name in enumerate(names)},
    }


def rates(predicted: NDArray[np.bool_], target: NDArray[np.bool_], names: Sequence[str], weights: Array) -> Groups:
    """Return sensitivity and specificity of decisions (N, C) by label."""
    right = (predicted == target).astype(np.float64)
    # Sensitivity is the accuracy on images with the label, specificity that on images without it.
    return {
        "sensitivity": mean_scores(np.where(target, right, np.nan), names, weights),
        "specificity": mean_scores(np.where(target, np.nan, right), names, weights),
    }


def one_hot(mask: Tensor, classes: int) -> Tensor:
    """Turn (B, H, W) indices into (B, classes without background, H, W) bool."""
    # PyTorch's one_hot takes int64 only, while served masks are uint8.
    return F.one_hot(mask.long(), classes).permute(0, 3, 1, 2)[:, 1:].bool()


def _joined(parts: list[Tensor]) -> Array:
    joined: Array = torch.cat(parts).double().numpy()
    return joined
