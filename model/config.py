"""Define the shape of the network: one frozen dataclass and its named presets."""

from dataclasses import dataclass
from typing import Literal

Design = Literal["sequential", "parallel"]

STRIDES = (2, 4, 8, 16)  # of the four stages, in pixels of the image


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Describe the shape of the multi-task network (arXiv 2412.00351).

    Raises ValueError where a field breaks its rule.

    image_size: side of the square input in pixels, a multiple of 16.
    seg_channels: channels K of the mask logits. One is a sigmoid, more are a softmax with the background first.
    labels: number C of image-level labels, each with its own logit.
    channels: channels of the four stages (strides 2, 4, 8, 16), each twice those of the stage before.
    resnet_blocks: ResNet basic blocks of each stage.
    swin_blocks: Swin blocks of every stage.
    head_dim: channels of one attention head, a divisor of every entry of `channels`.
    design: "sequential" runs attention on the sum of ResNet features and tokens, "parallel" runs both paths (Figure 3).
    dilations: dilations of the branches of dilated feature enhancement (DFE).
    head_levels: stages (1 to 4) that the classification head reads.
    drop_path: largest rate of stochastic depth, which grows linearly over the Swin blocks.
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
        # A window is image_size / 16 tokens wide, so that the last stage, at stride 16, is exactly one window.
        _require(
            self.image_size >= 32 and self.image_size % 16 == 0,
            "image_size",
            "a multiple of 16, at least 32",
            self.image_size,
        )
        _require(self.seg_channels >= 1, "seg_channels", "at least 1", self.seg_channels)
        _require(self.labels >= 1, "labels", "at least 1", self.labels)
        # Patch merging concatenates two convolutions of C channels each. The patch embedding splits off eighths.
        doubled = tuple(self.channels[:1]) + tuple(2 * c for c in self.channels[:-1])
        _require(
            len(self.channels) == 4 and self.channels == doubled and self.channels[0] % 8 == 0,
            "channels",
            "4 numbers, each the double of the one before, the first a multiple of 8",
            self.channels,
        )
        # The other stages have multiples of the first one's channels.
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
        # A checkpoint's JSON reaches this too, so the type alone does not hold.
        _require(self.design in ("sequential", "parallel"), "design", "'sequential' or 'parallel'", self.design)
        _require(len(self.dilations) >= 1 and min(self.dilations) >= 1, "dilations", "positive numbers", self.dilations)
        _require(
            len(self.head_levels) >= 1 and set(self.head_levels) <= {1, 2, 3, 4},
            "head_levels",
            "a choice of 1, 2, 3, 4",
            self.head_levels,
        )
        # At a rate of 1 nothing survives, and the survivors could not be scaled by 1 / (1 - rate).
        _require(0 <= self.drop_path < 1, "drop_path", "at least 0 and below 1", self.drop_path)

    @property
    def window_size(self) -> int:
        """Return the side of an attention window in tokens: 14 at 224 px, 32 at 512 px."""
        return self.image_size // STRIDES[-1]


def _require(holds: bool, field: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{field} must be {rule}, got {value}")


# The first two are the paper's, for ISIC 2017 (one lesion class) and RETOUCH (three fluids and the background). All
# four keep the paper's dilations: in `tiny`, whose last maps are 8 px wide, most outer taps meet only padding there.
PRESETS: dict[str, ModelConfig] = {
    "paper-224": ModelConfig(image_size=224, seg_channels=1),
    "paper-512": ModelConfig(image_size=512, seg_channels=4),
    "small": ModelConfig(image_size=224, channels=(32, 64, 128, 256)),
    "tiny": ModelConfig(image_size=128, channels=(16, 32, 64, 128), head_dim=16),
}


def resolve_config(config: ModelConfig | str) -> ModelConfig:
    """Return a configuration as it is, or the preset of that name.

    Raises ValueError for an unknown name.
    """
    if isinstance(config, ModelConfig):
        return config
    if config not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got '{config}'")
    return PRESETS[config]
