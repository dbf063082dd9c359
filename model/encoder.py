"""The ResFormer encoder: ResNet features and window attention in four stages, in either of the paper's two designs."""

from __future__ import annotations

from torch import Tensor, nn

from model.config import ModelConfig
from model.embedding import PatchEmbedding, PatchMerging
from model.layers import to_channels_first, to_channels_last
from model.resnet import ResStage, Stem
from model.swin import SwinStage


class ResFormerStage(nn.Module):
    """One stage over feature map x and tokens t (Figure 3).

    Sequential: `swin(res(x) + t)`. Parallel: `res(x) + swin(t)`.
    """

    def __init__(self, config: ModelConfig, index: int, drop_path: list[float]) -> None:
        super().__init__()
        channels = config.channels[index]
        c_in, stride = (channels, 1) if index == 0 else (channels // 2, 2)
        self.sequential = config.design == "sequential"
        self.res = ResStage(c_in, channels, config.resnet_blocks[index], stride)
        self.swin = SwinStage(channels, config.head_dim, config.window_size, drop_path)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x (B, C_in, H_in, W_in) and tokens (B, H, W, C) to (B, C, H, W)."""
        local = to_channels_last(self.res(x))
        out = self.swin(local + tokens) if self.sequential else local + self.swin(tokens)
        return to_channels_first(out)


class Encoder(nn.Module):
    """Stem and patch embedding, then four stages joined by patch merging."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        blocks = config.swin_blocks
        last = max(4 * blocks - 1, 1)
        rates = [config.drop_path * block / last for block in range(4 * blocks)]
        self.sequential = config.design == "sequential"
        self.stem = Stem(config.channels[0])
        self.embedding = PatchEmbedding(config.channels[0])
        self.merging = nn.ModuleList(PatchMerging(channels) for channels in config.channels[:-1])
        self.stages = nn.ModuleList(
            ResFormerStage(config, index, rates[index * blocks : (index + 1) * blocks]) for index in range(4)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to four maps (B, C_i, H / 2^i, W / 2^i), i = 1 to 4."""
        x, tokens = self.stem(image), self.embedding(image)
        if not self.sequential:  # the parallel design feeds the sum of both to both paths
            tokens = to_channels_last(x) + tokens
            x = to_channels_first(tokens)
        features = [self.stages[0](x, tokens)]
        for merge, stage in zip(self.merging, list(self.stages)[1:], strict=True):
            features.append(stage(features[-1], merge(to_channels_last(features[-1]))))
        return features
