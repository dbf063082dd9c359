"""Build networks for the tests that run in a fraction of a second and have statistics as if they were trained."""

import torch
from torch import nn

from data_pipeline import Preprocessing
from model import ModelConfig, MultiTaskResFormer, build_model
from model.checkpoint import CheckpointInfo

SMALLEST = ModelConfig(
    image_size=64, channels=(8, 16, 32, 64), resnet_blocks=(1, 1, 2, 1), head_dim=8, dilations=(1, 2, 5)
)


def lived_in(config: ModelConfig) -> MultiTaskResFormer:
    """Build a network whose batch norms look trained."""
    # Folding fresh ones (mean 0, variance 1) would prove nothing.
    torch.manual_seed(0)
    model = build_model(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def info_of(config: ModelConfig, seg_classes: tuple[str, ...], labels: tuple[str, ...], data: str) -> CheckpointInfo:
    """Describe weights of `config` that expect ImageNet's normalisation."""
    return CheckpointInfo(
        config=config,
        seg_classes=seg_classes,
        labels=labels,
        data=data,
        preprocessing=Preprocessing(image_size=config.image_size),
    )
