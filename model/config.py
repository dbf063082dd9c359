"""Define the shape of the network: one frozen dataclass and its named presets."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from data_pipeline.fields import MOST_CLASSES, MOST_LABELS, are_whole, is_number, is_whole, require

Design = Literal["sequential", "parallel"]

STRIDES = (2, 4, 8, 16)  # of the four stages, in pixels of the image


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Describe the shape of the multi-task network (arXiv 2412.00351).

    Every configuration that keeps these rules is built, rewritten and exported exactly. Raises ValueError where a field
    breaks its rule.

    image_size: side of the square input in pixels, a multiple of 16.
    seg_channels: channels K of the mask logits. One is a sigmoid for two classes, three or more are a softmax with the
        background first.
    labels: number C of image-level labels, each with its own logit.
    channels: channels of the four stages (strides 2, 4, 8, 16), each twice those of the stage before.
    resnet_blocks: ResNet basic blocks of each stage.
    swin_blocks: Swin blocks of every stage.
    head_dim: channels of one attention head, a divisor of every entry of `channels`.
    design: "sequential" runs attention on the sum of ResNet features and tokens, "parallel" runs both paths (Figure 3).
    dilations: dilations of the branches of dilated feature enhancement (DFE), equal or not.
    head_levels: stages (1 to 4) that the classification head reads, in any order, repeated or not.
    drop_path: largest rate of stochastic depth, which grows linearly over the Swin blocks.
    full_resolution: whether the decoder's last block works at the image's size, with a skip of features of the image
        itself, where the paper's enlarges the result of half the size.
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
    full_resolution: bool = False

    def __post_init__(self) -> None:
        for field, holds, rule in self._rules():
            require(holds, field, rule, getattr(self, field))

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        """Yield each field with whether its rule holds and the rule, those first that the others build on."""
        # A window is image_size / 16 tokens wide, so that the last stage, at stride 16, is exactly one window. Its
        # attention grows with the fourth power of the size: at 1024 px a head has 16 million scores.
        size = is_whole(self.image_size, 32, 1024) and self.image_size % 16 == 0
        yield "image_size", size, "a multiple of 16 from 32 to 1024"
        # Two classes are one sigmoid everywhere behind the network, so a softmax over two would not be understood.
        seg_channels = is_whole(self.seg_channels, 1, MOST_CLASSES) and self.seg_channels != 2
        yield "seg_channels", seg_channels, f"1 (for two classes) or a whole number from 3 to {MOST_CLASSES}"
        yield "labels", is_whole(self.labels, 1, MOST_LABELS), f"a whole number from 1 to {MOST_LABELS}"
        # Patch merging concatenates two convolutions of C channels each. The patch embedding splits off eighths.
        channels = are_whole(self.channels, 8, 2048) and len(self.channels) == 4 and self.channels[0] % 8 == 0
        doubled = channels and self.channels == tuple(self.channels[0] * 2**stage for stage in range(4))
        rule = "4 whole numbers, each the double of the one before, the first a multiple of 8 up to 256"
        yield "channels", doubled, rule
        # The other stages have multiples of the first one's channels.
        head_dim = is_whole(self.head_dim, 1, self.channels[0]) and self.channels[0] % self.head_dim == 0
        yield "head_dim", head_dim, f"a divisor of {self.channels[0]}"
        resnet_blocks = are_whole(self.resnet_blocks, 1, 64) and len(self.resnet_blocks) == 4
        yield "resnet_blocks", resnet_blocks, "4 whole numbers from 1 to 64"
        yield "swin_blocks", is_whole(self.swin_blocks, 1, 64), "a whole number from 1 to 64"
        # A checkpoint's JSON reaches this too, so the type alone does not hold.
        yield "design", self.design in ("sequential", "parallel"), "'sequential' or 'parallel'"
        dilations = are_whole(self.dilations, 1, 1024) and 1 <= len(self.dilations) <= 16
        yield "dilations", dilations, "1 to 16 whole numbers from 1 to 1024"
        head_levels = are_whole(self.head_levels, 1, 4) and 1 <= len(self.head_levels) <= 16
        yield "head_levels", head_levels, "1 to 16 of the numbers 1, 2, 3, 4"
        # At a rate of 1 nothing survives, and the survivors could not be scaled by 1 / (1 - rate).
        drop_path = is_number(self.drop_path, 0, 1) and self.drop_path < 1
        yield "drop_path", drop_path, "a number from 0 to below 1"
        yield "full_resolution", isinstance(self.full_resolution, bool), "true or false"

    @property
    def classes(self) -> int:
        """Return the number of classes of a mask: one more than the channel where that is a sigmoid."""
        return max(2, self.seg_channels)

    @property
    def window_size(self) -> int:
        """Return the side of an attention window in tokens: 14 at 224 px, 32 at 512 px."""
        return self.image_size // STRIDES[-1]


# The first two are the paper's, for ISIC 2017 (one lesion class) and RETOUCH (three fluids and the background). The
# others scale its dilations, which are meant for 512 px, with the image: in the last maps of `tiny`, 8 px wide, 12 and
# 18 would meet only padding. `tiny` decodes at the image's size: half of 128 px loses small fluids.
# `tiny-224` has the paper's window and image size for photographs of skin, in a file as small as that of `tiny`.
PRESETS: dict[str, ModelConfig] = {
    "paper-224": ModelConfig(image_size=224, seg_channels=1),
    "paper-512": ModelConfig(image_size=512, seg_channels=4),
    "small": ModelConfig(image_size=224, channels=(32, 64, 128, 256), dilations=(3, 5, 8)),
    "tiny": ModelConfig(
        image_size=128, channels=(16, 32, 64, 128), head_dim=16, dilations=(2, 3, 5), full_resolution=True
    ),
    "tiny-224": ModelConfig(
        image_size=224, seg_channels=1, channels=(16, 32, 64, 128), head_dim=16, dilations=(3, 5, 8)
    ),
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
