"""Small parts that several blocks share."""

import torch
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm: the pair that folds into one convolution for inference."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, bias=False)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        out: Tensor = self.norm(self.conv(x))
        return out


class ChannelGate(nn.Module):
    """Efficient channel attention with a residual: x * g + x, g = sigmoid(conv1d_k3(mean over the map)) per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape; the 1-D convolution runs along C."""
        pooled = x.mean(dim=(1, 2))  # [B, C]
        gate = torch.sigmoid(self.conv(pooled.unsqueeze(1)).squeeze(1))
        return x * (1 + gate[:, None, None, :])


class DropPath(nn.Module):
    """Stochastic depth: in training a sample's branch is left out with probability `rate` (arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; survivors are scaled so that the expectation stays."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)


def to_channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) viewed as (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def to_channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) viewed as (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)
