"""The network's shape: one frozen dataclass and its named presets."""

from dataclasses import dataclass, replace
from typing import Literal

Design = Literal["sequential", "parallel"]

STRIDES = (2, 4, 8, 16)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the multi-task network (arXiv 2412.00351).

    image_size: side of the square input in pixels; a multiple of 16, because the window is image_size / 16 tokens and
        the last stage (stride 16) holds exactly one.
    seg_channels: K, channels of the mask logits (1: sigmoid, more: softmax with background first).
    labels: C, image-level labels, each with its own logit.
    channels: of the four stages (strides 2, 4, 8, 16); each doubles the one before, as patch merging does.
    head_dim: channels of one attention head; divides every entry of `channels`.
    design: "sequential" runs attention on the sum of ResNet features and merged tokens, "parallel" runs both paths side
        by side (Figure 3).
    dilations: of the DFE branches.
    head_levels: stages (1 to 4) that the classification head reads.
    drop_path: largest stochastic-depth rate; it grows linearly over the Swin blocks.
    """

    image_size: int = 224
    seg_channels: int = 4
    labels: int = 3
    channels: tuple[int, ...] = (64, 128, 256, 512)
    resnet_blocks: tuple[int, ...] = (3, 4, 6, 3)
    swin_blocks: int = 2
    head_dim: int = 32
    design: Design = "sequential"
    dilations: tuple[int, ...] = (6, 12, 18)
    head_levels: tuple[int, ...] = (3, 4)
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        _require(
            self.image_size >= 32 and self.image_size % 16 == 0,
            "image_size",
            "a multiple of 16, at least 32",
            self.image_size,
        )
        _require(self.seg_channels >= 1, "seg_channels", "at least 1", self.seg_channels)
        _require(self.labels >= 1, "labels", "at least 1", self.labels)
        doubled = tuple(self.channels[:1]) + tuple(2 * c for c in self.channels[:-1])
        _require(
            len(self.channels) == 4 and self.channels == doubled and self.channels[0] % 8 == 0,
            "channels",
            "4 numbers, each the double of the one before, the first a multiple of 8",
            self.channels,
        )
        _require(
            self.head_dim > 0 and self.channels[0] % self.head_dim == 0,
            "head_dim",
            f"a divisor of {self.channels[0]}",
            self.head_dim,
        )
        _require(
            len(self.resnet_blocks) == 4 and min(self.resnet_blocks) >= 1,
            "resnet_blocks",
            "4 numbers, at least 1",
            self.resnet_blocks,
        )
        _require(self.swin_blocks >= 1, "swin_blocks", "at least 1", self.swin_blocks)
        _require(self.design in ("sequential", "parallel"), "design", "'sequential' or 'parallel'", self.design)
        _require(len(self.dilations) >= 1 and min(self.dilations) >= 1, "dilations", "positive numbers", self.dilations)
        _require(
            len(self.head_levels) >= 1 and set(self.head_levels) <= {1, 2, 3, 4},
            "head_levels",
            "a choice of 1, 2, 3, 4",
            self.head_levels,
        )
        _require(0 <= self.drop_path < 1, "drop_path", "at least 0 and below 1", self.drop_path)

    @property
    def window_size(self) -> int:
        """Side of an attention window in tokens: 14 at 224 px, 32 at 512 px."""
        return self.image_size // STRIDES[-1]


def _require(holds: bool, field: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{field} must be {rule}, got {value}")


PRESETS: dict[str, ModelConfig] = {
    "paper-224": ModelConfig(image_size=224, seg_channels=1),
    "paper-512": ModelConfig(image_size=512, seg_channels=4),
    "small": ModelConfig(image_size=224, channels=(32, 64, 128, 256)),
    "tiny": ModelConfig(image_size=128, channels=(16, 32, 64, 128), head_dim=16),
}


def resolve_config(config: ModelConfig | str) -> ModelConfig:
    """The configuration itself, or the preset of that name; raises ValueError for an unknown name."""
    if isinstance(config, ModelConfig):
        return config
    if config not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got '{config}'")
    return replace(PRESETS[config])
