"""The multi-task loss: L = L_seg + lambda L_cls (paper, section on training, where lambda is 0.25)."""

from collections.abc import Sequence

import torch
from monai.losses import DiceFocalLoss, DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from model.network import Prediction


class MultiTaskLoss(nn.Module):
    """Dice on the sigmoid for one mask channel, Dice + focal (gamma 2) for several; weighted BCE for the labels."""

    label_weights: Tensor

    def __init__(
        self,
        seg_channels: int,
        label_weights: Tensor,
        *,
        segmentation_weight: float = 1.0,
        classification_weight: float = 0.25,
    ) -> None:
        """label_weights: (C,), see `balanced_weights`."""
        super().__init__()
        # Dice over the whole batch: an image without a class then does not count as a total miss.
        self.segmentation: nn.Module = (
            DiceLoss(sigmoid=True, batch=True)
            if seg_channels == 1
            else DiceFocalLoss(softmax=True, to_onehot_y=True, gamma=2.0, batch=True)
        )
        self.register_buffer("label_weights", label_weights)
        self.segmentation_weight, self.classification_weight = segmentation_weight, classification_weight

    def forward(self, prediction: Prediction, mask: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss, in float32, from logits, mask (B, H, W) int64 and labels (B, C) float."""
        seg: Tensor = self.segmentation(prediction.segmentation.float(), mask.unsqueeze(1))
        logits = prediction.classification.float()
        cls = F.binary_cross_entropy_with_logits(logits, labels, weight=self.label_weights)
        return self.segmentation_weight * seg + self.classification_weight * cls


def balanced_weights(labels: Sequence[Sequence[int]]) -> Tensor:
    """N / (C n_c) for each of C labels, where n_c of N records carry label c (an unseen one counts as seen once)."""
    table = torch.tensor(labels, dtype=torch.float32)
    return len(table) / (table.shape[1] * table.sum(dim=0).clamp(min=1))
