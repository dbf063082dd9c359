"""List the arms of the ablation, and build the networks that are compared: each arm differs in one choice."""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from model.config import Design, ModelConfig
from model.network import Prediction, build_model, initialise
from model.network.decoder import MultiScaleHead
from model.network.encoder import ResStage, Stem
from model.training import TrainingOptions

PAPER_SIZE, PAPER_DILATIONS = 512, (6, 12, 18)


def with_plain_encoder(config: ModelConfig) -> nn.Module:
    """Build the network with `PlainEncoder` in place of its own."""
    network, encoder = build_model(config), PlainEncoder(config)
    initialise(encoder)
    network.register_module("encoder", encoder)
    return network


def without_dfe(config: ModelConfig) -> nn.Module:
    """Build the network with the encoder's levels handed to the decoder as they are."""
    network = build_model(config)
    network.register_module("dfe", nn.ModuleList(nn.Identity() for _ in config.channels))
    return network


class PlainEncoder(nn.Module):
    """Run the ResFormer encoder's stem and ResNet stages alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c_in = (config.channels[0], *config.channels[:-1])
        # The strides of ResFormer's own ResNet path, so that the decoder gets levels of the same sizes.
        stages = zip(c_in, config.channels, config.resnet_blocks, (1, 2, 2, 2), strict=True)
        self.stem = Stem(config.channels[0])
        self.stages = nn.ModuleList(ResStage(*stage) for stage in stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) to four maps (B, C_i, H / 2^i, W / 2^i), i = 1 to 4."""
        features = [self.stem(image)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[1:]


class UNetWithHead(nn.Module):
    """Run MONAI's plain U-Net with a head on its bottleneck."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        """Make a U-Net whose levels have `width` channels at the image's size and at half of it, then twice as many."""
        super().__init__()
        # BasicUNet takes its first level, four halvings and the width of its last convolution.
        widths = (width, width, 2 * width, 4 * width, 8 * width, width)
        self.unet = BasicUNet(2, 3, config.seg_channels, features=widths)
        self.head = MultiScaleHead([8 * width], config.labels)
        # MONAI returns the mask only. The hook keeps what its deepest level gave in the running forward pass.
        self.bottleneck = torch.empty(0)
        self.unet.down_4.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor], bottleneck: Tensor) -> None:
        self.bottleneck = bottleneck

    def forward(self, image: Tensor) -> Prediction:
        """Map (B, 3, H, W), multiples of 16, to the logits of both tasks."""
        segmentation = self.unet(image)
        return Prediction(segmentation, self.head([self.bottleneck]))


def equal_unet(config: ModelConfig) -> nn.Module:
    """Build the U-Net whose number of parameters is nearest to that of the network of a configuration."""

    def parameters(width: int) -> int:
        return count_parameters(UNetWithHead(config, width))

    # Counted without memory for the weights.
    with torch.device("meta"):
        wanted = count_parameters(build_model(config))
        above = bisect_left(range(4, 8 * config.channels[0]), wanted, key=parameters) + 4
        width = min((above - 1, above), key=lambda width: abs(parameters(width) - wanted))
    return UNetWithHead(config, width)


def count_parameters(network: nn.Module) -> int:
    """Return the number of a network's trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def scaled_dilations(image_size: int) -> tuple[int, ...]:
    """Scale the paper's dilations, which are meant for images of 512 px, to another image size."""
    # They reach the same share of a map then. Rounded half up: at 128 px they are 2, 3 and 5.
    return tuple(max(1, int(dilation * image_size / PAPER_SIZE + 0.5)) for dilation in PAPER_DILATIONS)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Describe one arm of the ablation by what differs from the preset.

    name: name of its folder and its key in ablation.json.
    title: name for the reader.
    build: makes the network of a configuration.
    design: design of the encoder.
    head_levels: stages that the classification head reads.
    dilations: returns those of DFE for an image size, or None for the preset's.
    full_resolution: whether the decoder ends at the image's size, or None for what the preset does.
    segment: whether the mask is trained and scored.
    classify: whether the labels are trained and scored.
    training: options of the training that differ, by their names in `TrainingOptions`.
    extra: whether the arm is trained only where it is asked for.
    """

    name: str
    title: str
    build: Callable[[ModelConfig], nn.Module] = build_model
    design: Design = "sequential"
    head_levels: tuple[int, ...] = (3, 4)
    dilations: Callable[[int], tuple[int, ...]] | None = None
    full_resolution: bool | None = None
    segment: bool = True
    classify: bool = True
    training: Mapping[str, Any] = field(default_factory=dict)
    extra: bool = False

    def config(self, preset: ModelConfig) -> ModelConfig:
        """Return the preset with this arm's design, levels, dilations and decoder."""
        dilations = self.dilations(preset.image_size) if self.dilations else preset.dilations
        return replace(
            preset,
            design=self.design,
            head_levels=self.head_levels,
            dilations=dilations,
            full_resolution=preset.full_resolution if self.full_resolution is None else self.full_resolution,
        )

    def repeats_base(self, preset: ModelConfig) -> bool:
        """Return whether the arm would train what the first arm trains, because the preset is already like that."""
        changed = self.build is not build_model or self.training or not (self.segment and self.classify)
        return self is not ARMS[0] and not changed and self.config(preset) == preset

    def options(self, both_tasks: TrainingOptions) -> TrainingOptions:
        """Return the options of both tasks with this arm's own, and the loss of a left-out task weighted by 0."""
        both_tasks = replace(both_tasks, **self.training)
        # The network keeps the decoder or head that is not trained, so that all arms share one code path.
        return replace(
            both_tasks,
            segmentation_weight=both_tasks.segmentation_weight * self.segment,
            classification_weight=both_tasks.classification_weight * self.classify,
        )


ARMS = (
    Arm(name="base", title="multi-task, sequential, DFE, last two levels"),
    Arm(name="segmentation", title="segmentation only", classify=False),
    Arm(name="classification", title="classification only", segment=False),
    Arm(name="parallel", title="parallel design", design="parallel"),
    Arm(name="resnet", title="plain ResNet encoder", build=with_plain_encoder),
    Arm(name="no-dfe", title="without DFE", build=without_dfe),
    Arm(name="dilations-paper", title="DFE, dilations of the paper", dilations=lambda image_size: PAPER_DILATIONS),
    Arm(name="dilations-scaled", title="DFE, dilations scaled to the image", dilations=scaled_dilations),
    Arm(name="dilations-124", title="DFE, dilations 1, 2, 4", dilations=lambda image_size: (1, 2, 4)),
    Arm(name="last-level", title="last level in the head", head_levels=(4,)),
    Arm(name="all-levels", title="all four levels in the head", head_levels=(1, 2, 3, 4)),
    Arm(name="half-resolution", title="decoder at half the image's size, enlarged", full_resolution=False),
    Arm(name="full-resolution", title="decoder at the image's size", full_resolution=True),
    Arm(name="unet", title="MONAI U-Net of equal parameters with a head", build=equal_unet),
    *(
        Arm(
            name=f"labels-{weight:g}",
            title=f"labels weighted by {weight:g}",
            training={"classification_weight": weight},
            extra=True,
        )
        for weight in (0.25, 0.5, 1.0, 2.0)
    ),
    Arm(name="labels-learned", title="learned weights", training={"learned_weights": True}, extra=True),
    Arm(name="labels-late", title="labels after 30 % of the steps", training={"label_warmup": 0.3}, extra=True),
)
