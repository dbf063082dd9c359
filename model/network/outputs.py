"""From logits to what is served: class index a pixel, probability a label."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Decoded(NamedTuple):
    """mask (B, H, W) uint8 class indices, class_probs (B, C) and seg_probs (B, K, H, W) in [0, 1]."""

    mask: Tensor
    class_probs: Tensor
    seg_probs: Tensor


class DecodedNetwork(nn.Module):
    """The network with argmax, softmax and sigmoids behind it: what is exported, evaluated and served."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Decoded:
        """(B, 3, H, W) normalised RGB to `Decoded`. One mask channel is a sigmoid cut at 0.5, more are a softmax."""
        segmentation, classification = self.network(image)
        if segmentation.shape[1] == 1:
            # int32 in between: TensorRT casts neither booleans nor int64 to uint8
            mask = (segmentation[:, 0] > 0).int().to(torch.uint8)
            return Decoded(mask, torch.sigmoid(classification), torch.sigmoid(segmentation))
        mask = segmentation.argmax(dim=1).int().to(torch.uint8)
        return Decoded(mask, torch.sigmoid(classification), torch.softmax(segmentation, dim=1))
