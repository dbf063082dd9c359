"""What there is to say of each image: its masks at its own size, and its label probabilities."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from data_pipeline import Dataset, Preprocessing, Record
from model.bootstrap import Array
from model.evaluation import outputs
from model.metrics import one_hot

PERCENTILE = 95


@dataclass(frozen=True)
class MaskScores:
    """One value a class, background left out, of one mask against the truth.

    dice, jaccard: in [0, 1].  hausdorff95: 95 % Hausdorff distance of the outlines in pixels.
    overlap, found, true: shares of the image's pixels that are of the class in both, in the mask, in the truth.
    pixels: of the image.

    Where the truth does not show a class, its dice, jaccard and hausdorff95 are NaN, and such images are left out of
    means; what was found there still counts in the shares. Where only the mask is empty they are 0, 0 and the image's
    diagonal, the largest distance there is.
    """

    dice: Array
    jaccard: Array
    hausdorff95: Array
    overlap: Array
    found: Array
    true: Array
    pixels: int


@dataclass(frozen=True)
class Case:
    """One image of the data set: its record, the scores of its mask and its label probabilities (C,)."""

    record: Record
    masks: MaskScores
    probabilities: Array

    @property
    def dice(self) -> float:
        """Mean over the classes that the image shows; NaN if there is none."""
        shown = self.masks.dice[~np.isnan(self.masks.dice)]
        return float(shown.mean()) if len(shown) else float("nan")


class Answer(NamedTuple):
    """The network's answer to one record, beside what it was given.

    image: (3, S, S) float32, normalised.  truth, mask: (S, S) class indices.  probabilities: (C,).
    """

    record: Record
    image: Tensor
    truth: Tensor
    mask: Tensor
    probabilities: Tensor


def answers(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> Iterator[Answer]:
    """One a record, in order; the network is left in evaluation mode."""
    for batch, mask, probabilities in outputs(model, dataset, spec):
        records = [dataset.records[index] for index in batch.index.tolist()]
        yield from map(Answer, records, batch.image, batch.mask, mask, probabilities)


def score_cases(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> Iterator[Case]:
    """One `Case` a record, in order; the mask is enlarged to the size of the true one, as a client enlarges it."""
    for answer in answers(model, dataset, spec):
        truth = np.asarray(Image.open(answer.record.mask))
        mask = Image.fromarray(answer.mask.numpy())
        found = np.asarray(mask.resize((truth.shape[1], truth.shape[0]), Image.Resampling.NEAREST))
        scores = score_masks(found, truth, len(dataset.seg_classes))
        yield Case(answer.record, scores, answer.probabilities.double().numpy())


def score_masks(found: NDArray[np.uint8], truth: NDArray[np.uint8], classes: int) -> MaskScores:
    """found, truth: (H, W) class indices below `classes`; background first."""
    mine, true = (one_hot(torch.from_numpy(mask.copy())[None], classes) for mask in (found, truth))
    overlap, in_mine, in_true = (mask[0].double().mean(dim=(1, 2)).numpy() for mask in (mine & true, mine, true))
    dice, jaccard = (
        measure(mine, true, ignore_empty=True)[0].double().numpy() for measure in (compute_dice, compute_iou)
    )
    distance = np.where(in_mine > 0, _hausdorff(mine, true), np.hypot(truth.shape[0], truth.shape[1]))
    hausdorff = np.where(in_true > 0, distance, np.nan)
    return MaskScores(dice, jaccard, hausdorff, overlap, in_mine, in_true, truth.size)


def _hausdorff(found: Tensor, truth: Tensor) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty masks, which the caller defines, and of MONAI's own old arguments
        values = compute_hausdorff_distance(found, truth, include_background=True, percentile=PERCENTILE)
    distances: Array = values[0].double().numpy()
    return distances
