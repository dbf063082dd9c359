"""Run a network over a data set with the preprocessing of training and serving, and score what it predicts."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from data_pipeline import Batch, Dataset, Preprocessing, TrainingLoader
from model.metrics import TaskScores
from model.network.outputs import DecodedNetwork

BATCH = 8


def predict_batches(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Yield the batches in the order of the records, each with its masks (B, S, S) and label probabilities (B, C).

    The network is left in evaluation mode.
    """
    # What is exported and served is scored, not the bare logits.
    decoded, device = DecodedNetwork(model).eval(), next(model.parameters()).device
    for batch in TrainingLoader(dataset, spec, batch_size=BATCH, augment=False, shuffle=False, seed=0):
        # Entered for each batch and not around the loop: a generator would leave it on in the caller's code.
        with torch.inference_mode():
            mask, probabilities, _ = decoded(batch.image.to(device))
        yield batch, mask.cpu(), probabilities.cpu()


def collect_scores(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> TaskScores:
    """Collect `TaskScores` of the network over a data set, at the network's resolution."""
    scores = TaskScores(dataset.seg_classes, dataset.labels)
    for batch, mask, class_probs in predict_batches(model, dataset, spec):
        scores.update(mask, class_probs, batch.mask.cpu(), batch.labels)
    return scores


def score_network(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> dict[str, float]:
    """Compute the scores of `collect_scores`."""
    return collect_scores(model, dataset, spec).compute()
