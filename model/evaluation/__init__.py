"""Scores of a network on a data set, over the same preprocessing as in training and serving."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from data_pipeline import Batch, Dataset, Preprocessing, TrainingLoader
from model.metrics import TaskScores
from model.network.outputs import DecodedNetwork

BATCH = 8


def outputs(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Batches in order, each with its masks (B, S, S) and label probabilities (B, C); `model` is left evaluating."""
    decoded, device = DecodedNetwork(model).eval(), next(model.parameters()).device
    for batch in TrainingLoader(dataset, spec, batch_size=BATCH, augment=False, shuffle=False, seed=0):
        with torch.inference_mode():
            mask, probabilities, _ = decoded(batch.image.to(device))
        yield batch, mask.cpu(), probabilities.cpu()


def score_network(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> dict[str, float]:
    """The scores of `collect_scores`."""
    return collect_scores(model, dataset, spec).compute()


def collect_scores(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> TaskScores:
    """`TaskScores` of `model` over `dataset`; the network is left in evaluation mode."""
    scores = TaskScores(dataset.seg_classes, dataset.labels)
    for batch, mask, class_probs in outputs(model, dataset, spec):
        scores.update(mask, class_probs, batch.mask.cpu(), batch.labels)
    return scores
