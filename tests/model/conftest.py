"""Networks for the tests: small enough for a fraction of a second, with statistics that are not the trivial ones."""

import pytest
import torch
from torch import nn

from model import ModelConfig, MultiTaskResFormer, build_model

SMALLEST = ModelConfig(
    image_size=64, channels=(8, 16, 32, 64), resnet_blocks=(1, 1, 2, 1), head_dim=8, dilations=(1, 2, 5)
)


def with_lived_in_norms(model: MultiTaskResFormer) -> MultiTaskResFormer:
    """Batch norms as after training: folding a fresh one (mean 0, variance 1) would prove nothing."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=generator)
    return model


@pytest.fixture
def network() -> MultiTaskResFormer:
    torch.manual_seed(0)
    return with_lived_in_norms(build_model(SMALLEST)).eval()
