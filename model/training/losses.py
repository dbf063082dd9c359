"""Define the multi-task loss: L = L_seg + lambda L_cls, with lambda 0.25 in the paper."""

from collections.abc import Sequence

import torch
from monai.losses import DiceFocalLoss, DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from model.network import Prediction


class MultiTaskLoss(nn.Module):
    """Add the losses of both tasks.

    The mask's loss is Dice on the sigmoid for one channel, Dice and focal (gamma 2) for several. The labels' loss is a
    weighted binary cross-entropy.
    """

    label_weights: Tensor

    def __init__(
        self,
        seg_channels: int,
        label_weights: Tensor,
        *,
        segmentation_weight: float = 1.0,
        classification_weight: float = 0.25,
    ) -> None:
        """Prepare the loss for masks of `seg_channels` channels and labels weighted by (C,) `balanced_weights`."""
        super().__init__()
        # Dice over the whole batch: an image without a class then does not count as a total miss.
        self.segmentation: nn.Module = (
            DiceLoss(sigmoid=True, batch=True)
            if seg_channels == 1
            else DiceFocalLoss(softmax=True, to_onehot_y=True, gamma=2.0, batch=True)
        )
        # A buffer moves to the device with the module, and is no parameter to train.
        self.register_buffer("label_weights", label_weights)
        self.segmentation_weight, self.classification_weight = segmentation_weight, classification_weight

    def forward(self, prediction: Prediction, mask: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            prediction: logits of both tasks.
            mask: target class indices (B, H, W), int64.
            labels: target labels (B, C), float.

        Returns:
            A scalar in float32.
        """
        # The logits are bfloat16 under autocast: its 8 bits of precision are too few for sums over the batch's pixels.
        seg: Tensor = self.segmentation(prediction.segmentation.float(), mask.unsqueeze(1))
        logits = prediction.classification.float()
        cls = F.binary_cross_entropy_with_logits(logits, labels, weight=self.label_weights)
        return self.segmentation_weight * seg + self.classification_weight * cls


def balanced_weights(labels: Sequence[Sequence[int]]) -> Tensor:
    """Return N / (C n_c) for each of C labels, where n_c of N records carry label c."""
    table = torch.tensor(labels, dtype=torch.float32)
    # A label that no record carries counts as seen once, which keeps its weight finite.
    return len(table) / (table.shape[1] * table.sum(dim=0).clamp(min=1))
