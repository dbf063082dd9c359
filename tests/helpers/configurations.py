"""Draw legal configurations of the network, and build networks of them that hide nothing."""

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import nn

from data_pipeline import Preprocessing
from deploy.contract import Contract
from model import ModelConfig, MultiTaskResFormer
from tests.helpers.networks import lived_in

# The same configurations in every run, and none remembered between runs: a failure is one for everyone. The first
# network takes longer than the others, so no example has a deadline.
DRAWN = settings(derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The head dims of each width of the first stage.
HEAD_DIMS = {8: [8], 16: [8, 16], 24: [8, 12, 24], 64: [8, 16, 32, 64]}


def one_of(values: list[int], low: int, high: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw tuples of `low` to `high` of the values, repeated or not and in any order."""
    return st.lists(st.sampled_from(values), min_size=low, max_size=high).map(tuple)


@st.composite
def configurations(
    draw: st.DrawFn, widths: tuple[int, ...], sizes: tuple[int, ...] = (32, 48, 64, 80, 96)
) -> ModelConfig:
    """Draw a legal configuration with one of the image sizes, whose first stage has one of the widths."""
    first = draw(st.sampled_from(widths))
    return ModelConfig(
        image_size=draw(st.sampled_from(sizes)),
        seg_channels=draw(st.sampled_from([1, 3, 4, 5, 6])),
        labels=draw(st.integers(1, 20)),
        channels=(first, 2 * first, 4 * first, 8 * first),
        resnet_blocks=draw(one_of([1, 2], 4, 4)),
        swin_blocks=draw(st.integers(1, 3)),
        head_dim=draw(st.sampled_from(HEAD_DIMS[first])),
        design=draw(st.sampled_from(["sequential", "parallel"])),
        # Of the maps' sides, 2 to 48, some are below each of these, some equal and some beyond.
        dilations=draw(one_of([1, 2, 3, 6, 12, 18, 40, 48], 1, 4)),
        head_levels=draw(one_of([1, 2, 3, 4], 1, 4)),
        full_resolution=draw(st.booleans()),
    )


def uneven(config: ModelConfig) -> MultiTaskResFormer:
    """Build a network none of whose parameters has the value that it starts with."""
    model = lived_in(config)
    for name, parameter in model.named_parameters():
        # Biases of 0 and scales of 1 would hide that they were lost, as bias tables of nearly 0 would.
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
        if name.endswith("bias_table"):
            nn.init.normal_(parameter)
    return model


def undecided(config: ModelConfig) -> MultiTaskResFormer:
    """Build a network whose probabilities are neither 0 nor 1, where they would hide what the logits are."""
    model = uneven(config)
    with torch.no_grad():
        segmentation, classification = model(torch.randn(2, 3, config.image_size, config.image_size))
        model.decoder.classify.weight.div_(segmentation.abs().max() / 4)
        for parameter in list(model.head.classify)[-1].parameters():
            parameter.div_(classification.abs().max() / 4)
    return model


def served_contract(config: ModelConfig, max_batch: int) -> Contract:
    """Describe what a network of this configuration takes and returns."""
    classes = 2 if config.seg_channels == 1 else config.seg_channels
    return Contract(
        preprocessing=Preprocessing(image_size=config.image_size),
        seg_classes=tuple(f"class {index}" for index in range(classes)),
        labels=tuple(f"label {index}" for index in range(config.labels)),
        max_batch=max_batch,
    )
