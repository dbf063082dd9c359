"""List the arms: each is the headline design but for one choice, so that each claim of the paper is one comparison."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from model.ablation.networks import UNetWithHead, with_plain_encoder, without_dfe
from model.config import Design, ModelConfig
from model.network import build_model
from model.training.options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Describe one arm of the ablation by what differs from the preset.

    name: name of its folder and its key in ablation.json.
    title: name for the reader.
    build: makes the network of a configuration.
    design: design of the encoder.
    head_levels: stages that the classification head reads.
    segment: whether the mask is trained and scored.
    classify: whether the labels are trained and scored.
    """

    name: str
    title: str
    build: Callable[[ModelConfig], nn.Module] = build_model
    design: Design = "sequential"
    head_levels: tuple[int, ...] = (3, 4)
    segment: bool = True
    classify: bool = True

    def config(self, preset: ModelConfig) -> ModelConfig:
        """Return the preset with this arm's design and levels."""
        return replace(preset, design=self.design, head_levels=self.head_levels)

    def options(self, both_tasks: TrainingOptions) -> TrainingOptions:
        """Return the options of both tasks with the loss of a left-out task weighted by 0."""
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
    Arm(name="last-level", title="last level in the head", head_levels=(4,)),
    Arm(name="all-levels", title="all four levels in the head", head_levels=(1, 2, 3, 4)),
    Arm(name="unet", title="MONAI U-Net with a head", build=UNetWithHead),
)
