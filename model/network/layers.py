"""Define the small parts that several blocks share."""

import torch
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """Run a convolution without bias, then batch norm: the pair that folds into one convolution for inference."""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        # Keeps the size at stride 1, for odd kernels at any dilation.
        padding = dilation * (kernel - 1) // 2
        # A bias would be taken out again by the norm's mean.
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, bias=False)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        out: Tensor = self.norm(self.conv(x))
        return out


class ChannelGate(nn.Module):
    """Apply efficient channel attention: x * g + x, where g = sigmoid(conv1d_k3(mean over the map)) per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        pooled = x.mean(dim=(1, 2))  # [B, C]
        # The 1-D convolution runs along C: a gate for each channel, from its own mean and those of its neighbours.
        gate = torch.sigmoid(self.conv(pooled.unsqueeze(1)).squeeze(1))
        return x * (1 + gate[:, None, None, :])


class DropPath(nn.Module):
    """Leave a sample's branch out with probability `rate` in training: stochastic depth (arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ...) to the same shape."""
        if not self.training or self.rate == 0:
            return x
        # One draw a sample. Survivors are scaled so that the expectation is that of evaluation.
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)


def to_channels_last(x: Tensor) -> Tensor:
    """View (B, C, H, W) as (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def to_channels_first(x: Tensor) -> Tensor:
    """View (B, H, W, C) as (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)
