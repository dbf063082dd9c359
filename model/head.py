"""The classification head over several encoder levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiScaleHead(nn.Module):
    """Each level: batch norm, ReLU, global average pool; concatenated; linear to 32, linear to the labels."""

    def __init__(self, channels: Sequence[int], labels: int) -> None:
        """channels: of the levels that `forward` will get, in order."""
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels)
        self.classify = nn.Sequential(nn.Linear(sum(channels), 32), nn.Linear(32, labels))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, H_i, W_i) to logits (B, labels)."""
        pooled = [F.relu(norm(x)).mean(dim=(2, 3)) for norm, x in zip(self.norms, features, strict=True)]
        logits: Tensor = self.classify(torch.cat(pooled, dim=1))
        return logits
