"""The convolutional path: stem and ResNet34 basic blocks (arXiv 1512.03385)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from model.layers import ConvNorm


class Stem(nn.Sequential):
    """7x7 convolution, batch norm, ReLU, 3x3 max-pool with stride 2: (B, 3, H, W) to (B, C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__(ConvNorm(3, channels, 7), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected by a 1x1 convolution where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(c_in, c_out, 3, stride=stride)
        self.conv2 = ConvNorm(c_out, c_out, 3)
        same_shape = stride == 1 and c_in == c_out
        self.shortcut: nn.Module = nn.Identity() if same_shape else ConvNorm(c_in, c_out, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class ResStage(nn.Sequential):
    """`blocks` basic blocks, the first with the stage's stride."""

    def __init__(self, c_in: int, c_out: int, blocks: int, stride: int) -> None:
        first = BasicBlock(c_in, c_out, stride)
        super().__init__(first, *(BasicBlock(c_out, c_out, 1) for _ in range(blocks - 1)))
