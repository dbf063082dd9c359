"""The sum of dilated convolutions in plain PyTorch: the definition."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def dilated_fusion_reference(x: Tensor, weight: Tensor, bias: Tensor, dilations: Sequence[int]) -> Tensor:
    """See `kernels.dilated_fusion`. Traceable with a dynamic batch."""
    image = x.permute(0, 3, 1, 2)
    total = bias.to(x.dtype)[:, None, None]
    for branch, dilation in zip(weight.unbind(0), dilations, strict=True):
        total = total + F.conv2d(image, branch, padding=dilation, dilation=dilation)
    return total.relu().permute(0, 2, 3, 1).contiguous()
