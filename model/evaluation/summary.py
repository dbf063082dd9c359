"""Summarise scored cases with intervals, over the images and over the volumes that they are slices of."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline import Dataset
from model.bootstrap import Array, Groups, interval, resample, weighted_auc, with_means
from model.evaluation.cases import ScoredCase
from model.metrics import label_scores, mean_scores, pooled_dice

MASK_SCORES = ("dice", "jaccard", "hausdorff95")


class Estimate(NamedTuple):
    """Hold a score and its 95 % bootstrap interval over resampled images (volumes, where the images are slices)."""

    value: float
    low: float
    high: float


def summarise(cases: Sequence[ScoredCase], dataset: Dataset, seed: int = 0) -> dict[str, Estimate]:
    """Compute all scores: each group's mean as GROUP and its members as GROUP/NAME, without undefined ones.

    dice, jaccard, hausdorff95 (pixels) / CLASS: means over the images that show the class (`MaskScores`).
    pooled_dice/CLASS: over the pixels of all images, so that false alarms on images without the class count.
    accuracy, sensitivity, specificity / LABEL: at a probability of 0.5.
    auc/LABEL: area under the ROC curve.
    volume_dice, volume_difference_mm3 / CLASS and volume_auc/LABEL: of slices only, see `_volume_scores`.
    """
    volumes = [case.record.volume for case in cases]
    names = sorted({volume.name for volume in volumes if volume})
    # Volumes are resampled whole. An image that is not a slice is a group by itself.
    groups = [names.index(volume.name) if volume else number for number, volume in enumerate(volumes)]
    weights = resample(groups, seed)
    scores = _mask_scores(cases, dataset.seg_classes[1:], weights) | _label_scores(cases, dataset.labels, weights)
    if names:
        scores |= _volume_scores(cases, groups, dataset, resample(range(len(names)), seed))
    return {name: Estimate(*interval(values)) for name, values in with_means(scores).items()}


def _mask_scores(cases: Sequence[ScoredCase], classes: Sequence[str], weights: Array) -> Groups:
    scores = {
        name: mean_scores(np.array([getattr(case.masks, name) for case in cases]), classes, weights)
        for name in MASK_SCORES
    }
    overlap, area = (np.array([pair[i] for pair in map(_overlap_and_area, cases)]) for i in (0, 1))
    return scores | {"pooled_dice": pooled_dice(overlap, area, classes, weights)}


def _overlap_and_area(case: ScoredCase) -> tuple[Array, Array]:
    """Count the pixels of each class in both masks, and in one plus the other."""
    masks = case.masks
    return masks.overlap * masks.pixels, (masks.predicted + masks.target) * masks.pixels


def _label_scores(cases: Sequence[ScoredCase], labels: Sequence[str], weights: Array) -> Groups:
    target = np.array([case.record.labels for case in cases]) > 0
    return label_scores(np.array([case.probabilities for case in cases]), target, labels, weights)


def _volume_scores(cases: Sequence[ScoredCase], groups: Sequence[int], dataset: Dataset, weights: Array) -> Groups:
    """Compute RETOUCH's scores over the slices that were evaluated.

    volume_dice: 2 |both| / (|predicted| + |target|) over a volume's voxels, NaN where the target has none of the class.
    volume_difference_mm3: absolute difference of the predicted and the target volume.
    volume_auc: AUC of detecting a label in a volume, whose probability is the highest of its slices.
    """
    volumes: list[list[ScoredCase]] = [[] for _ in range(max(groups) + 1)]
    for case, group in zip(cases, groups, strict=True):
        volumes[group].append(case)
    # [volumes, 3, classes], then each of the three as [volumes, classes]
    overlap, predicted, target = np.array([sum(map(_mm3, volume)) for volume in volumes], np.float64).transpose(1, 0, 2)
    # A volume shows a label if any of its slices does.
    probs = np.array([np.max([case.probabilities for case in volume], axis=0) for volume in volumes])
    labels = np.array([np.max([case.record.labels for case in volume], axis=0) for volume in volumes])
    dice = np.divide(2 * overlap, predicted + target, out=np.full(target.shape, np.nan), where=target > 0)
    classes = dataset.seg_classes[1:]
    return {
        "volume_dice": mean_scores(dice, classes, weights),
        "volume_difference_mm3": mean_scores(abs(predicted - target), classes, weights),
        "volume_auc": {
            name: weighted_auc(probs[:, i], labels[:, i] > 0, weights) for i, name in enumerate(dataset.labels)
        },
    }


def _mm3(case: ScoredCase) -> Array:
    """Measure each class of a slice in mm³ (3, classes): in both masks, predicted, target."""
    assert case.record.volume
    masks = case.masks
    volumes: Array = case.record.volume.slice_mm3 * np.array([masks.overlap, masks.predicted, masks.target])
    return volumes
