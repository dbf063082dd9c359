"""Encode the image in four stages of ResNet features and window attention, in either of the paper's two designs.

From the whole to its parts: the encoder, one stage of it, the tokens that attention works on (patch embedding and patch
merging), and the ResNet path. The window attention itself is in `model.network.swin`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import ModelConfig
from model.network.layers import ChannelGate, ConvNorm, to_channels_first, to_channels_last
from model.network.swin import SwinStage


class Encoder(nn.Module):
    """Run stem and patch embedding, then four stages joined by patch merging."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # The rate of stochastic depth grows from 0 at the first block to `drop_path` at the last one of all stages.
        blocks = config.swin_blocks
        last = 4 * blocks - 1
        rates = [config.drop_path * block / last for block in range(4 * blocks)]
        self.sequential = config.design == "sequential"
        self.stem = Stem(config.channels[0])
        self.embedding = PatchEmbedding(config.channels[0])
        self.merging = nn.ModuleList(PatchMerging(channels) for channels in config.channels[:-1])
        self.stages = nn.ModuleList(
            ResFormerStage(config, index, rates[index * blocks : (index + 1) * blocks]) for index in range(4)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) to four maps (B, C_i, H / 2^i, W / 2^i), i = 1 to 4."""
        x, tokens = self.stem(image), self.embedding(image)
        if not self.sequential:  # the parallel design feeds the sum of both to both paths
            tokens = to_channels_last(x) + tokens
            x = to_channels_first(tokens)
        features = [self.stages[0](x, tokens)]
        # A slice of a ModuleList would build a new module at every call, a slice of a list does not.
        for merge, stage in zip(self.merging, list(self.stages)[1:], strict=True):
            features.append(stage(features[-1], merge(to_channels_last(features[-1]))))
        return features


class ResFormerStage(nn.Module):
    """Run one stage over a feature map x and tokens t (Figure 3).

    The sequential design computes `swin(res(x) + t)`, the parallel one `res(x) + swin(t)`.
    """

    def __init__(self, config: ModelConfig, index: int, drop_path: list[float]) -> None:
        super().__init__()
        channels = config.channels[index]
        # Stem and patch embedding have already halved the image and given the first stage its channels.
        c_in, stride = (channels, 1) if index == 0 else (channels // 2, 2)
        self.sequential = config.design == "sequential"
        self.res = ResStage(c_in, channels, config.resnet_blocks[index], stride)
        self.swin = SwinStage(channels, config.head_dim, config.window_size, drop_path)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Map x (B, C_in, H_in, W_in) and tokens (B, H, W, C) to (B, C, H, W)."""
        local = to_channels_last(self.res(x))
        out = self.swin(local + tokens) if self.sequential else local + self.swin(tokens)
        return to_channels_first(out)


class PatchEmbedding(nn.Module):
    """Make the first tokens: kernels 2, 4, 8, 16 on the image with C/2, C/4, C/8, C/8 channels, gate, layer norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scales = MultiScaleConv(3, {2: channels // 2, 4: channels // 4, 8: channels // 8, 16: channels // 8})
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, H/2, W/2, C)."""
        tokens: Tensor = self.norm(self.scales(image))
        return tokens


class PatchMerging(nn.Module):
    """Halve the token map and double its channels: layer norm, kernels 2 and 4 with C channels each, gate."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.scales = MultiScaleConv(channels, {2: channels, 4: channels})

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H/2, W/2, 2C)."""
        merged: Tensor = self.scales(to_channels_first(self.norm(tokens)))
        return merged


class MultiScaleConv(nn.Module):
    """Concatenate parallel stride-2 convolutions of several kernel sizes, closed by a channel gate."""

    def __init__(self, c_in: int, outputs: dict[int, int]) -> None:
        """Make one convolution for each kernel size in `outputs`, which gives its output channels."""
        super().__init__()
        # Padded by (k - 2) / 2, every even kernel k gives H/2 x W/2, so that the maps can be concatenated.
        self.convs = nn.ModuleList(
            nn.Conv2d(c_in, c_out, kernel, stride=2, padding=(kernel - 2) // 2) for kernel, c_out in outputs.items()
        )
        self.gate = ChannelGate()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, H/2, W/2, sum of outputs)."""
        tokens: Tensor = self.gate(to_channels_last(torch.cat([conv(x) for conv in self.convs], dim=1)))
        return tokens


class Stem(nn.Sequential):
    """Map (B, 3, H, W) to (B, C, H/2, W/2): 7x7 convolution, batch norm, ReLU, 3x3 max-pool with stride 2."""

    def __init__(self, channels: int) -> None:
        # The convolution keeps the size, unlike ResNet's of stride 2: the finest features are at H/2, not at H/4.
        super().__init__(ConvNorm(3, channels, 7), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))


class ResStage(nn.Sequential):
    """Run `blocks` basic blocks in a row, the first with the stage's stride."""

    def __init__(self, c_in: int, c_out: int, blocks: int, stride: int) -> None:
        first = BasicBlock(c_in, c_out, stride)
        super().__init__(first, *(BasicBlock(c_out, c_out, 1) for _ in range(blocks - 1)))


class BasicBlock(nn.Module):
    """Add two 3x3 convolutions to a shortcut, which a 1x1 convolution projects where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(c_in, c_out, 3, stride=stride)
        self.conv2 = ConvNorm(c_out, c_out, 3)
        same_shape = stride == 1 and c_in == c_out
        self.shortcut: nn.Module = nn.Identity() if same_shape else ConvNorm(c_in, c_out, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))
