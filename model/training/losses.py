"""The multi-task loss: L = L_seg + 0.25 * L_cls (paper, section on training)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceFocalLoss, DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from model.network import Prediction

CLASSIFICATION_WEIGHT = 0.25


class MultiTaskLoss(nn.Module):
    """Dice on the sigmoid for one mask channel, Dice + focal (gamma 2) for several; weighted BCE for the labels."""

    label_weights: Tensor

    def __init__(self, seg_channels: int, label_weights: Tensor) -> None:
        """label_weights: (C,), see `balanced_weights`."""
        super().__init__()
        # Dice over the whole batch: an image without a class then does not count as a total miss.
        self.segmentation: nn.Module = (
            DiceLoss(sigmoid=True, batch=True)
            if seg_channels == 1
            else DiceFocalLoss(softmax=True, to_onehot_y=True, gamma=2.0, batch=True)
        )
        self.register_buffer("label_weights", label_weights)

    def forward(self, prediction: Prediction, mask: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss from logits, mask (B, H, W) int64 and labels (B, C) float."""
        seg: Tensor = self.segmentation(prediction.segmentation, mask.unsqueeze(1))
        cls = F.binary_cross_entropy_with_logits(prediction.classification, labels, weight=self.label_weights)
        return seg + CLASSIFICATION_WEIGHT * cls


def balanced_weights(labels: Sequence[Sequence[int]]) -> Tensor:
    """N / (C n_c) for each of C labels, where n_c of N records carry label c (an unseen one counts as seen once)."""
    table = torch.tensor(labels, dtype=torch.float32)
    return len(table) / (table.shape[1] * table.sum(dim=0).clamp(min=1))
