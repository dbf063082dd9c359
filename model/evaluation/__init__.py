"""Scores of a network on a data set, over the same preprocessing as in training and serving."""

from __future__ import annotations

import torch
from torch import nn

from data_pipeline import Dataset, Preprocessing, TrainingLoader
from model.metrics import TaskScores
from model.outputs import DecodedNetwork

BATCH = 8


def score_network(model: nn.Module, dataset: Dataset, spec: Preprocessing) -> dict[str, float]:
    """`TaskScores` of `model` over `dataset`; the network is left in evaluation mode."""
    decoded, device = DecodedNetwork(model).eval(), next(model.parameters()).device
    scores = TaskScores(dataset.seg_classes, dataset.labels)
    loader = TrainingLoader(dataset, spec, batch_size=BATCH, augment=False, shuffle=False, seed=0)
    with torch.inference_mode():
        for batch in loader:
            mask, class_probs, _ = decoded(batch.image.to(device))
            scores.update(mask.cpu(), class_probs.cpu(), batch.mask.cpu(), batch.labels)
    return scores.compute()
