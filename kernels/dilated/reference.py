"""Define the sum of dilated convolutions in plain PyTorch."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def dilated_fusion_reference(x: Tensor, weight: Tensor, bias: Tensor, dilations: Sequence[int]) -> Tensor:
    """Compute `kernels.dilated_fusion`, traceable with a dynamic batch."""
    # The axes move here and back: PyTorch's convolutions take channels first, both operations of this package last.
    image = x.permute(0, 3, 1, 2)
    total = bias.to(x.dtype)[:, None, None]
    for branch, dilation in zip(weight.unbind(0), dilations, strict=True):
        total = total + F.conv2d(image, branch, padding=dilation, dilation=dilation)
    return total.relu().permute(0, 2, 3, 1).contiguous()
