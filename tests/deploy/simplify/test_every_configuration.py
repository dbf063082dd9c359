"""Draw legal configurations, and hold every rewritten form of their networks to the network itself."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from data_pipeline import Preprocessing
from deploy.contract import Contract
from deploy.export import export_onnx
from deploy.simplify import simplify
from model import ModelConfig, MultiTaskResFormer
from model.inference import for_inference
from model.network import DecodedNetwork
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
def configurations(draw: st.DrawFn, widths: tuple[int, ...]) -> ModelConfig:
    """Draw a legal configuration whose first stage has one of the widths."""
    first = draw(st.sampled_from(widths))
    return ModelConfig(
        image_size=draw(st.sampled_from([32, 48, 64, 80, 96])),
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


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare two results, with a tolerance in units of the largest value."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def assert_exact(config: ModelConfig) -> None:
    """Compare the logits of both rewritten forms with the network's own, in float64."""
    model = uneven(config).double()
    image = torch.randn(2, 3, config.image_size, config.image_size, dtype=torch.float64)
    with torch.no_grad():
        expected = model(image)
        for rewritten in (simplify(model), for_inference(model, "reference")):
            for actual, wanted in zip(rewritten(image), expected, strict=True):
                assert_equal(actual, wanted, 1e-11)


@settings(DRAWN, max_examples=12)
@example(ModelConfig(image_size=32, channels=(64, 128, 256, 512), resnet_blocks=(1, 1, 1, 1), head_dim=64))
@example(ModelConfig(image_size=48, channels=(8, 16, 32, 64), head_dim=8, dilations=(6, 6, 12), head_levels=(3, 3)))
@example(ModelConfig(image_size=64, channels=(8, 16, 32, 64), head_dim=8, dilations=(2, 2), head_levels=(4, 3)))
@example(
    ModelConfig(
        image_size=32,
        seg_channels=256,
        labels=1000,
        channels=(8, 16, 32, 64),
        resnet_blocks=(1, 1, 1, 1),
        swin_blocks=5,
        head_dim=1,
        dilations=(1024,) * 15 + (1,),
        head_levels=(4,) * 16,
    )
)
@given(configurations((8, 16, 24)))
def test_every_legal_configuration_is_rewritten_exactly(config: ModelConfig) -> None:
    assert_exact(config)


@pytest.mark.slow
@settings(DRAWN, max_examples=200)
@given(configurations((8, 16, 24, 64)))
def test_many_legal_configurations_are_rewritten_exactly(config: ModelConfig) -> None:
    assert_exact(config)


def undecided(config: ModelConfig) -> MultiTaskResFormer:
    """Build a network whose probabilities are neither 0 nor 1, where they would hide what the logits are."""
    model = uneven(config)
    with torch.no_grad():
        segmentation, classification = model(torch.randn(2, 3, config.image_size, config.image_size))
        model.decoder.classify.weight.div_(segmentation.abs().max() / 4)
        for parameter in list(model.head.classify)[-1].parameters():
            parameter.div_(classification.abs().max() / 4)
    return model


def served_contract(config: ModelConfig) -> Contract:
    """Describe what a network of this configuration takes and returns."""
    classes = 2 if config.seg_channels == 1 else config.seg_channels
    return Contract(
        preprocessing=Preprocessing(image_size=config.image_size),
        seg_classes=tuple(f"class {index}" for index in range(classes)),
        labels=tuple(f"label {index}" for index in range(config.labels)),
        max_batch=3,
    )


@pytest.mark.slow
@settings(DRAWN, max_examples=15)
@given(configurations((8, 16, 24)))
def test_many_legal_configurations_are_exported_exactly(
    tmp_path_factory: pytest.TempPathFactory, config: ModelConfig
) -> None:
    model, contract = undecided(config), served_contract(config)
    path: Path = tmp_path_factory.mktemp("drawn") / "model.onnx"
    export_onnx(model, contract, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in contract.outputs]
    for batch in (1, 3):
        image = torch.randn(batch, *contract.network_input.shape)
        outputs = session.run(names, {contract.network_input.name: image.numpy()})
        with torch.no_grad():
            mask, *probabilities = DecodedNetwork(model)(image)
        for actual, expected in zip(outputs[1:], probabilities, strict=True):
            np.testing.assert_allclose(actual, expected.numpy(), rtol=0, atol=2e-5)
        # A pixel whose two best classes are as good as equal may take either.
        assert (outputs[0] != mask.numpy()).mean() < 0.001
