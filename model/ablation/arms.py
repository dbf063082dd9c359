"""The arms: each is the headline design but for one choice, so that each claim of the paper is one comparison."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from model.ablation.networks import UNetWithHead, with_plain_encoder, without_dfe
from model.config import Design, ModelConfig
from model.network import build_model
from model.training.options import TrainingOptions


@dataclass(frozen=True)
class Arm:
    """design, head_levels, segment, classify: what differs from the preset; build: the network of a configuration."""

    name: str
    title: str
    build: Callable[[ModelConfig], nn.Module] = build_model
    design: Design = "sequential"
    head_levels: tuple[int, ...] = (3, 4)
    segment: bool = True
    classify: bool = True

    def config(self, preset: ModelConfig) -> ModelConfig:
        return replace(preset, design=self.design, head_levels=self.head_levels)

    def options(self, both: TrainingOptions) -> TrainingOptions:
        """`both` with the loss of a left-out task weighted by 0."""
        return replace(
            both,
            segmentation_weight=both.segmentation_weight * self.segment,
            classification_weight=both.classification_weight * self.classify,
        )


ARMS = (
    Arm("base", "multi-task, sequential, DFE, last two levels"),
    Arm("segmentation", "segmentation only", classify=False),
    Arm("classification", "classification only", segment=False),
    Arm("parallel", "parallel design", design="parallel"),
    Arm("resnet", "plain ResNet encoder", build=with_plain_encoder),
    Arm("no-dfe", "without DFE", build=without_dfe),
    Arm("last-level", "last level in the head", head_levels=(4,)),
    Arm("all-levels", "all four levels in the head", head_levels=(1, 2, 3, 4)),
    Arm("unet", "MONAI U-Net with a head", build=UNetWithHead),
)
