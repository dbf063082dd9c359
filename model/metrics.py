"""Task scores of masks and label probabilities against the truth; the same for PyTorch and for every engine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.metrics import compute_dice
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from model.statistics import interval, resample, weighted_auc, weighted_mean, with_means


class TaskScores:
    """Collects batches, then gives one flat dictionary of scores in [0, 1].

    dice/CLASS: mean over the images that show the class.
    pooled_dice/CLASS: over the pixels of all images, so that false alarms on images without it count.
    accuracy/LABEL: at a probability of 0.5.
    auc/LABEL: area under the ROC curve; left out where the truth has one value only.
    dice, pooled_dice, accuracy, auc: the means of these.
    """

    def __init__(self, seg_classes: Sequence[str], labels: Sequence[str]) -> None:
        """seg_classes: background first; it is not scored."""
        self.seg_classes, self.labels = tuple(seg_classes), tuple(labels)
        self._dice: list[Tensor] = []
        self._pixels = torch.zeros(2, len(self.seg_classes) - 1, dtype=torch.float64)  # twice the overlap; both areas
        self._probs: list[Tensor] = []
        self._truth: list[Tensor] = []

    def update(self, mask: Tensor, class_probs: Tensor, true_mask: Tensor, true_labels: Tensor) -> None:
        """mask, true_mask: (B, H, W) class indices. class_probs in [0, 1] and true_labels 0 or 1: (B, C)."""
        found, truth = (one_hot(masks, len(self.seg_classes)) for masks in (mask, true_mask))
        self._dice.append(compute_dice(found, truth, ignore_empty=True))
        self._pixels += torch.stack([2 * (found & truth).sum(dim=(0, 2, 3)), (found.int() + truth).sum(dim=(0, 2, 3))])
        self._probs.append(class_probs.float())
        self._truth.append(true_labels.int())

    def compute(self) -> dict[str, float]:
        """The scores of everything collected; raises ValueError where nothing was."""
        if not self._dice:
            raise ValueError("at least one batch must be collected before scores are computed, got 0")
        overlap, area = self._pixels
        probs, truth = torch.cat(self._probs), torch.cat(self._truth)
        groups = {
            "dice": dict(zip(self.seg_classes[1:], torch.cat(self._dice).nanmean(dim=0).tolist(), strict=True)),
            "pooled_dice": dict(zip(self.seg_classes[1:], (overlap / area).tolist(), strict=True)),
            "accuracy": dict(zip(self.labels, ((probs > 0.5) == truth).double().mean(dim=0).tolist(), strict=True)),
            "auc": {
                label: float(binary_auroc(probs[:, i], truth[:, i]))
                for i, label in enumerate(self.labels)
                if 0 < int(truth[:, i].sum()) < len(truth)
            },
        }
        return _flatten(groups)

    def bounds(self, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals of `dice` and `auc`, and of each class and label, over images drawn anew."""
        dice = torch.cat(self._dice).double().numpy()
        probs, truth = torch.cat(self._probs).double().numpy(), torch.cat(self._truth).numpy() > 0
        weights = resample(range(len(dice)), seed)
        groups = {
            "dice": {name: weighted_mean(dice[:, i], weights) for i, name in enumerate(self.seg_classes[1:])},
            "auc": {name: weighted_auc(probs[:, i], truth[:, i], weights) for i, name in enumerate(self.labels)},
        }
        return {name: interval(values)[1:] for name, values in with_means(groups).items()}


def one_hot(mask: Tensor, classes: int) -> Tensor:
    """(B, H, W) indices to (B, classes without background, H, W) bool."""
    return F.one_hot(mask.long(), classes).permute(0, 3, 1, 2)[:, 1:].bool()


def _flatten(groups: dict[str, dict[str, float]]) -> dict[str, float]:
    """Names joined by `/`, NaN (a class or label that the truth never shows) left out, and each group's mean."""
    scores: dict[str, float] = {}
    for group, values in groups.items():
        defined = {name: value for name, value in values.items() if value == value}
        if defined:
            scores[group] = sum(defined.values()) / len(defined)
        scores |= {f"{group}/{name}": value for name, value in defined.items()}
    return scores
