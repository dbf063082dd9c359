"""Turn logits into what is served: a class index for each pixel and a probability for each label."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Decoded(NamedTuple):
    """Hold what is served for a batch.

    mask: class indices (B, H, W), uint8.
    class_probs: label probabilities (B, C) in [0, 1].
    seg_probs: mask probabilities (B, K, H, W) in [0, 1].
    """

    mask: Tensor
    class_probs: Tensor
    seg_probs: Tensor


class DecodedNetwork(nn.Module):
    """Append argmax, softmax and sigmoids to the network: what is exported, evaluated and served."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Decoded:
        """Map normalised RGB (B, 3, H, W) to `Decoded`.

        One mask channel is a sigmoid cut at 0.5, more are a softmax.
        """
        segmentation, classification = self.network(image)
        # The labels are sigmoids in either case: several may be present at once.
        if segmentation.shape[1] == 1:
            # A sigmoid is above 0.5 where its logit is above 0.
            # int32 in between: TensorRT casts neither booleans nor int64 to uint8.
            mask = (segmentation[:, 0] > 0).int().to(torch.uint8)
            return Decoded(mask, torch.sigmoid(classification), torch.sigmoid(segmentation))
        mask = segmentation.argmax(dim=1).int().to(torch.uint8)
        return Decoded(mask, torch.sigmoid(classification), torch.softmax(segmentation, dim=1))
