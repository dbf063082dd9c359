"""Run a network over a data set and score each of its images."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from data_pipeline import Batch, DataError, Dataset, Preprocessing, Record, TrainingLoader
from data_pipeline.enlarge import enlarge
from model.bootstrap import Array
from model.checkpoint import CheckpointError
from model.metrics import TaskScores, one_hot
from model.network import decode

BATCH = 8
PERCENTILE = 95  # of the distances between outlines: the largest may be that of a single stray pixel


@dataclass(frozen=True, kw_only=True)
class PredictedRecord:
    """Hold what the network predicts for one record, with what it was given.

    record: where the image, its target mask and its labels are.
    image: the network's input (3, S, S), float32, normalised.
    target_mask: target class indices (S, S).
    mask: predicted class indices (S, S).
    seg_probabilities: what the mask is decided from (K, S, S).
    probabilities: predicted label probabilities (C,).
    """

    record: Record
    image: Tensor
    target_mask: Tensor
    mask: Tensor
    seg_probabilities: Tensor
    probabilities: Tensor


@dataclass(frozen=True, kw_only=True)
class MaskScores:
    """Compare one predicted mask with its target: one value for each class but the background.

    Where the target does not show a class, its dice, jaccard and hausdorff95 are NaN, and such images are left out of
    means. What was predicted there still counts in the shares. Where only the prediction is empty they are 0, 0 and the
    image's diagonal, the largest distance there is.

    dice: Dice coefficient in [0, 1].
    jaccard: Jaccard index in [0, 1].
    hausdorff95: 95 % Hausdorff distance of the outlines in pixels.
    overlap: share of the image's pixels that are of the class in both masks.
    predicted: share of the image's pixels that are of the class in the predicted mask.
    target: share of the image's pixels that are of the class in the target.
    pixels: number of the image's pixels.
    """

    dice: Array
    jaccard: Array
    hausdorff95: Array
    overlap: Array
    predicted: Array
    target: Array
    pixels: int


@dataclass(frozen=True)
class ScoredCase:
    """Hold one image of the data set with its scores.

    record: where the image and its targets are.
    masks: scores of its mask.
    probabilities: predicted label probabilities (C,).
    """

    record: Record
    masks: MaskScores
    probabilities: Array

    @property
    def dice(self) -> float:
        """Return the mean over the classes that the image shows, or NaN if there is none."""
        shown = self.masks.dice[~np.isnan(self.masks.dice)]
        return float(shown.mean()) if len(shown) else float("nan")


def predict_batches(
    model: nn.Module, dataset: Dataset, spec: Preprocessing
) -> Iterator[tuple[Batch, Tensor, Tensor, Tensor]]:
    """Yield the batches in the order of the records, each with what the network predicts.

    That is masks (B, S, S), label probabilities (B, C) and the probabilities (B, K, S, S) behind the masks.

    The network is left in evaluation mode. Raises CheckpointError where it gives a logit that is not finite.
    """
    network, device = model.eval(), next(model.parameters()).device
    for batch in TrainingLoader(dataset, spec, batch_size=BATCH, augment=False, shuffle=False, seed=0):
        # Entered for each batch and not around the loop: a generator would leave it on in the caller's code.
        with torch.inference_mode():
            logits = network(batch.image.to(device))
            # Decoded, NaN would be a class and infinity a certain label.
            if not all(bool(torch.isfinite(one).all()) for one in logits):
                first = dataset.records[int(batch.index[0])].image
                raise CheckpointError(f"the weights overflow: logits are NaN or infinite in the batch from {first} on")
            # What is exported and served is scored, not the bare logits.
            mask, probabilities, soft = decode(logits)
        yield batch, mask.cpu(), probabilities.cpu(), soft.cpu()


def collect_scores(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> TaskScores:
    """Collect `TaskScores` of the network over a data set, at the network's resolution."""
    scores = TaskScores(dataset.seg_classes, dataset.labels)
    for batch, mask, class_probs, _ in predict_batches(model, dataset, spec):
        scores.update(mask, class_probs, batch.mask.cpu(), batch.labels)
    return scores


def score_network(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> dict[str, float]:
    """Compute the scores of `collect_scores`."""
    return collect_scores(model, dataset, spec).compute()


def predict_records(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> Iterator[PredictedRecord]:
    """Yield the prediction for each record, in order.

    The network is left in evaluation mode.
    """
    for batch, *predicted in predict_batches(model, dataset, spec):
        rows = zip(batch.index.tolist(), batch.image, batch.mask, *predicted, strict=True)
        for index, image, target_mask, mask, label_probabilities, seg_probabilities in rows:
            yield PredictedRecord(
                record=dataset.records[index],
                image=image,
                target_mask=target_mask,
                mask=mask,
                seg_probabilities=seg_probabilities,
                probabilities=label_probabilities,
            )


def score_cases(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> Iterator[ScoredCase]:
    """Yield the scores of each record, in order.

    Raises DataError where the file of an image or its mask is missing, as it may be of prepared data, which hold both
    at another size.
    """
    files = [file for record in dataset.records for file in (record.image, record.mask)]
    if missing := [file for file in files if not file.is_file()]:
        raise DataError(
            f"{len(missing)} of the images and masks are missing, {missing[0]} first, and scores are at their own "
            "size: score prepared data where they were prepared, or the source itself, such as folder:DIR"
        )
    for predicted in predict_records(model, dataset, spec):
        # At the size of the target, to which a client enlarges the mask in the same way.
        target = np.asarray(Image.open(predicted.record.mask))
        mask = enlarge(predicted.seg_probabilities.numpy(), (target.shape[1], target.shape[0]))
        scores = score_masks(mask, target, len(dataset.seg_classes))
        yield ScoredCase(predicted.record, scores, predicted.probabilities.double().numpy())


def score_masks(predicted: NDArray[np.uint8], target: NDArray[np.uint8], classes: int) -> MaskScores:
    """Score a predicted mask.

    Args:
        predicted: class indices (H, W) below `classes`.
        target: class indices (H, W) below `classes`.
        classes: number of classes, with the background first.
    """
    # Copied because PIL's arrays are read-only, of which PyTorch warns. Shares of pixels are [classes - 1].
    masks = [one_hot(torch.from_numpy(mask.copy())[None], classes) for mask in (predicted, target)]
    overlap, predicted_share, target_share = (
        mask[0].double().mean(dim=(1, 2)).numpy() for mask in (masks[0] & masks[1], *masks)
    )
    dice, jaccard = (measure(*masks, ignore_empty=True)[0].double().numpy() for measure in (compute_dice, compute_iou))
    # MONAI gives infinity or NaN where a mask is empty.
    distance = np.where(predicted_share > 0, _hausdorff(*masks), np.hypot(target.shape[0], target.shape[1]))
    return MaskScores(
        dice=dice,
        jaccard=jaccard,
        hausdorff95=np.where(target_share > 0, distance, np.nan),
        overlap=overlap,
        predicted=predicted_share,
        target=target_share,
        pixels=target.size,
    )


def _hausdorff(predicted: Tensor, target: Tensor) -> Array:
    with warnings.catch_warnings():
        # MONAI warns of empty masks, which the caller defines, and of its own deprecated arguments.
        warnings.simplefilter("ignore")
        # The background is already gone: this option keeps MONAI from dropping the first class in its place.
        values = compute_hausdorff_distance(predicted, target, include_background=True, percentile=PERCENTILE)
    distances: Array = values[0].double().numpy()
    return distances
