"""Draw legal configurations, and hold every rewritten form of their networks to the network itself."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor

from deploy.export import export_onnx
from deploy.simplify import simplify
from model import ModelConfig
from model.inference import for_inference
from model.network import DecodedNetwork
from tests.helpers.configurations import DRAWN, configurations, served_contract, undecided, uneven


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


@pytest.mark.slow
@settings(DRAWN, max_examples=15)
@given(configurations((8, 16, 24)))
def test_many_legal_configurations_are_exported_exactly(
    tmp_path_factory: pytest.TempPathFactory, config: ModelConfig
) -> None:
    model, contract = undecided(config), served_contract(config, 3)
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
