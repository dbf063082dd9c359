"""Turn scored cases into scores with intervals, and show them: a table, a row for each case, a gallery."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from rich.table import Table
from rich.text import Text
from torch import nn

from data_pipeline import Dataset, Preprocessing
from data_pipeline.fields import as_line
from data_pipeline.files import write_whole
from data_pipeline.overlay import draw_outlines
from model.bootstrap import Array, Groups, interval, resample, weighted_auc, with_means
from model.evaluation import PredictedRecord, ScoredCase, predict_records
from model.metrics import label_scores, mean_scores, pooled_dice

MASK_SCORES = ("dice", "jaccard", "hausdorff95")
SHOWN = 3  # cases of each kind in the gallery
COLUMNS = ("image", "target", "predicted")  # of the gallery


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


def score_table(scores: dict[str, Estimate], title: str) -> Table:
    """Lay out the scores as a table for the terminal."""
    # As Text, because names and paths may hold brackets and colons, which rich would take for markup in a string.
    table = Table("score", "value", "95 % interval", title=Text(as_line(title), style="table.title"))
    for name, (value, low, high) in scores.items():
        table.add_row(Text(name), f"{value:.4f}", f"{low:.4f} to {high:.4f}")
    return table


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


def pick(cases: Sequence[ScoredCase]) -> dict[str, list[ScoredCase]]:
    """Pick the best, median and worst cases by Dice, at most `SHOWN` of each, from those that show a class."""
    ranked = sorted((case for case in cases if not np.isnan(case.dice)), key=lambda case: -case.dice)
    # The three kinds have the same number, so that the gallery is a full rectangle. Of few cases they overlap.
    count = min(SHOWN, len(ranked))
    middle = (len(ranked) - count) // 2
    return {"best": ranked[:count], "median": ranked[middle : middle + count], "worst": ranked[len(ranked) - count :]}


def draw_gallery(
    cases: Sequence[ScoredCase], model: nn.Module, dataset: Dataset, spec: Preprocessing
) -> Image.Image | None:
    """Draw the best, median and worst cases in a row each, or return None where no case shows a class.

    A tile shows the image, the target mask and the predicted mask, each with its name below.
    """
    rows = [(f"{kind}: Dice {case.dice:.3f}", case.record) for kind, chosen in pick(cases).items() for case in chosen]
    if not rows:
        return None
    # Predicted again rather than kept from scoring, which would hold every image in memory. They are read from their
    # files: prepared pixels are found by a record's place in the whole data set.
    shown = replace(dataset, records=tuple(record for _, record in rows), prepared=None)
    predictions = zip(rows, predict_records(model, shown, spec), strict=True)
    tiles = [_tile(text, predicted, spec) for (text, _), predicted in predictions]
    across, (width, height) = len(rows) // 3, tiles[0].size
    sheet = Image.new("RGB", (across * width, 3 * height))
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (width * (number % across), height * (number // across)))
    return sheet


def _tile(text: str, predicted: PredictedRecord, spec: Preprocessing) -> Image.Image:
    """Draw (S, 3S): the image as the network sees it, with the outline of the target, and of the predicted mask."""
    # Back from the network's normalisation to 8 bits.
    pixels = predicted.image.permute(1, 2, 0).numpy() * spec.std + spec.mean
    image = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    outlined = [draw_outlines(image, mask.numpy()) for mask in (predicted.target_mask, predicted.mask)]
    tile = Image.fromarray(np.concatenate([image, *outlined], axis=1))
    side, drawing = len(image), ImageDraw.Draw(tile)
    texts = {(3, 2): f"{text}, {_name(predicted)}"}
    texts |= {(3 + number * side, side - 14): name for number, name in enumerate(COLUMNS)}
    for place, words in texts.items():
        # A black rim keeps the white text readable on bright images.
        drawing.text(place, words, fill="white", stroke_width=1, stroke_fill="black")
    return tile


def _name(predicted: PredictedRecord) -> str:
    # Slices have numbers for names, which every volume has again.
    image, volume = predicted.record.image.stem, predicted.record.volume
    return f"{volume.name} {image}" if volume else image
