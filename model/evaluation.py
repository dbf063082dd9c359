"""Scores of a network on a data set, over the same preprocessing as in training and serving."""

from __future__ import annotations

import torch

from data_pipeline import Dataset, Preprocessing, TrainingLoader
from model.metrics import TaskScores
from model.network import MultiTaskResFormer
from model.outputs import DecodedNetwork

BATCH = 8


def score_network(model: MultiTaskResFormer, dataset: Dataset, spec: Preprocessing) -> dict[str, float]:
    """`TaskScores` of `model` over `dataset`; the network is left in evaluation mode."""
    decoded = DecodedNetwork(model).eval()
    scores = TaskScores(dataset.seg_classes, dataset.labels)
    loader = TrainingLoader(dataset, spec, batch_size=BATCH, augment=False, shuffle=False, seed=0)
    with torch.inference_mode():
        for batch in loader:
            mask, class_probs, _ = decoded(batch.image)
            scores.update(mask, class_probs, batch.mask, batch.labels)
    return scores.compute()
