"""Turn scored cases into scores with intervals, a table of them, and a row for each case."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from data_pipeline import Dataset
from data_pipeline.fields import as_line
from data_pipeline.files import write_whole
from model.bootstrap import Array, Groups, interval, resample, weighted_auc, with_means
from model.calibration import Calibration
from model.evaluation import ScoredCase
from model.evaluation.labels import (
    before_calibration,
    calibration_scores,
    chance_errors,
    confusion,
    largest_probability,
    pooled_errors,
    threshold_scores,
)
from model.evaluation.sizes import SizeScore, scores_by_size
from model.metrics import label_scores, mean_scores, pooled_dice

# A table of these by label would push the others out of sight.
ONLY_MEANS = (
    *("ece", "brier", "ece_uncalibrated", "brier_uncalibrated", "ece_by_chance"),
    *(f"{rate}_at_{kind}" for rate in ("sensitivity", "specificity") for kind in ("sensitive", "specific")),
)
MASK_SCORES = ("dice", "jaccard", "hausdorff95")


class Estimate(NamedTuple):
    """Hold a score and its 95 % bootstrap interval over resampled images (volumes, where the images are slices)."""

    value: float
    low: float
    high: float


def summarise(
    cases: Sequence[ScoredCase], dataset: Dataset, seed: int = 0, calibration: Calibration | None = None
) -> dict[str, Estimate]:
    """Compute all scores: each group's mean as GROUP and its members as GROUP/NAME, without undefined ones.

    dice, jaccard, hausdorff95 (pixels) / CLASS: means over the images that show the class (`MaskScores`).
    pooled_dice/CLASS: over the pixels of all images, so that false alarms on images without the class count.
    accuracy, sensitivity, specificity / LABEL: at a probability of 0.5.
    auc/LABEL: area under the ROC curve.
    ece, brier / LABEL: expected calibration error and Brier score of the probabilities.
    ece_by_chance/LABEL: the ECE of perfect probabilities on so few images, with the interval of its draws.
    pooled_ece, pooled_ece_by_chance, pooled_ece_uncalibrated: the same over the decisions on all labels.
    ece_uncalibrated, brier_uncalibrated / LABEL: without the temperatures of `calibration`, where there is one.
    sensitivity_at_sensitive and the like / LABEL: at its thresholds.
    volume_dice, volume_difference_mm3 / CLASS and volume_auc/LABEL: of slices only, see `_volume_scores`.
    """
    groups, weights = volume_groups(cases), resample(volume_groups(cases), seed)
    probs, target = label_table(cases)
    scores = _mask_scores(cases, dataset.seg_classes[1:], weights)
    scores |= _label_scores(probs, target, dataset.labels, weights, calibration)
    scores |= chance_errors(probs, dataset.labels, seed)
    if any(case.record.volume for case in cases):
        scores |= _volume_scores(cases, groups, dataset, resample(range(max(groups) + 1), seed))
    flat = with_means(scores) | pooled_errors(probs, target, weights, seed, calibration)
    return {name: Estimate(*interval(values)) for name, values in flat.items()}


def summarise_sizes(cases: Sequence[ScoredCase], seed: int = 0) -> list[SizeScore]:
    """Compute the scores of each range of sizes, under the same resampled images as `summarise`."""
    return scores_by_size(cases, resample(volume_groups(cases), seed))


def label_table(cases: Sequence[ScoredCase]) -> tuple[Array, NDArray[np.bool_]]:
    """Return the predicted probabilities (N, C) and the targets (N, C) of the labels."""
    return np.array([case.probabilities for case in cases]), np.array([case.record.labels for case in cases]) > 0


def volume_groups(cases: Sequence[ScoredCase]) -> list[int]:
    """Return the number of each image's group: groups are resampled whole, and slices of one volume are one."""
    volumes = [case.record.volume for case in cases]
    names = sorted({volume.name for volume in volumes if volume})
    return [names.index(volume.name) if volume else number for number, volume in enumerate(volumes)]


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


def _label_scores(
    probs: Array, target: NDArray[np.bool_], names: Sequence[str], weights: Array, calibration: Calibration | None
) -> Groups:
    scores = label_scores(probs, target, names, weights) | calibration_scores(probs, target, names, weights)
    if calibration:
        scores |= before_calibration(probs, target, names, weights, calibration)
        scores |= threshold_scores(probs, target, names, weights, calibration)
    return scores


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


def score_table(scores: dict[str, Estimate], title: str) -> Table:
    """Lay out the scores as a table for the terminal, those of `ONLY_MEANS` without their labels."""
    # As Text, because names and paths may hold brackets and colons, which rich would take for markup in a string.
    table = Table("score", "value", "95 % interval", title=Text(as_line(title), style="table.title"))
    for name, (value, low, high) in scores.items():
        group, label, _ = name.partition("/")
        if not (label and group in ONLY_MEANS):
            table.add_row(Text(name), f"{value:.4f}", f"{low:.4f} to {high:.4f}")
    return table


def report_fields(
    cases: Sequence[ScoredCase], dataset: Dataset, scores: dict[str, Estimate], seed: int
) -> dict[str, Any]:
    """Return what `metrics.json` says of the scored images."""
    probs, target = label_table(cases)
    return {
        "images": len(cases),
        "scores": {name: estimate._asdict() for name, estimate in scores.items()},
        "sizes": [asdict(size) for size in summarise_sizes(cases, seed)],
        "confusion": confusion(probs, target, dataset.labels),
        "largest_probability": largest_probability(probs, target),
    }


def write_cases(cases: Sequence[ScoredCase], dataset: Dataset, path: Path) -> None:
    """Write a CSV of one row an image, in which an empty field is a class that the image does not show."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    masks = [f"{score}/{name}" for score in MASK_SCORES for name in dataset.seg_classes[1:]]
    # "truth" is the target's name in this file's format.
    labels = [f"{kind}/{name}" for kind in ("truth", "probability") for name in dataset.labels]
    writer.writerow(["image", "volume", *masks, *labels])
    for case in cases:
        values = np.concatenate([getattr(case.masks, score) for score in MASK_SCORES])
        volume = case.record.volume.name if case.record.volume else ""
        fields = ["" if np.isnan(value) else f"{value:.6g}" for value in values]
        probabilities = [f"{value:.6g}" for value in case.probabilities]
        writer.writerow([case.record.image, volume, *fields, *case.record.labels, *probabilities])
    # A file's name may hold bytes that are no text.
    write_whole(path, text.getvalue().encode(errors="backslashreplace"))
