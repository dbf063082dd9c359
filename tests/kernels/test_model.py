"""Compare the network on the Triton kernels with the network on the reference.

On the kernels it must prepare its weights once, and again when they change.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import kernels.attention.api
import kernels.dilated.api
from kernels import Impl
from model import ModelConfig, MultiTaskResFormer, build_model
from model.inference import for_inference, fuse_dfe
from model.inference.kernel_modules import PreparedAttention
from model.network.decoder import DFE
from model.network.swin import WindowAttention

IMPLS: tuple[Impl, Impl] = ("reference", "triton")
CONFIG = ModelConfig(
    image_size=64, channels=(16, 32, 64, 128), resnet_blocks=(1, 1, 1, 1), head_dim=16, dilations=(1, 2, 5)
)


def trained(seed: int) -> MultiTaskResFormer:
    """Build a small network whose biases are as large as after training."""
    torch.manual_seed(seed)
    network = build_model(CONFIG)
    for module in network.modules():
        if isinstance(module, WindowAttention):
            # With values as small as training starts with, a wrong bias would go unnoticed.
            nn.init.normal_(module.bias_table)
    return network


def predict(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Run the network and return its mask logits and its label logits."""
    with torch.inference_mode():
        segmentation, classification = network(image)
    return segmentation, classification


def assert_same(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Compare both outputs of two networks."""
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.fixture
def image(device: torch.device) -> Tensor:
    """Draw an image of the network's size."""
    torch.manual_seed(0)
    return torch.rand(1, 3, 64, 64, device=device)


def forbid_preparing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail calls of the operations that prepare weights themselves."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were prepared in a call")

    # The names that the operations call, not those that `kernels` exports: the modules prepare with the latter.
    monkeypatch.setattr(kernels.attention.api, "prepare_bias", refuse)
    monkeypatch.setattr(kernels.dilated.api, "pack_taps", refuse)


def test_network_on_the_kernels_equals_the_reference(
    image: Tensor, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_preparing(monkeypatch)
    reference, triton = (predict(for_inference(trained(0), impl).to(device), image) for impl in IMPLS)
    assert_same(triton, reference)


def attention(seed: int, impl: Impl) -> nn.Module:
    """Build an attention module that holds prepared bias rows."""
    torch.manual_seed(seed)
    return PreparedAttention(WindowAttention(16, 16, 4, shifted=True).requires_grad_(False), impl)


def fused(seed: int, impl: Impl) -> nn.Module:
    """Build a DFE module that holds packed taps."""
    torch.manual_seed(seed)
    enhancement = DFE(16, (1, 3)).eval().requires_grad_(False)
    return nn.Sequential(Transpose(), fuse_dfe(enhancement, impl), Transpose())


class Transpose(nn.Module):
    """Move the channels, so that both modules map (B, H, W, C) to the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 3)


@pytest.mark.parametrize("make", [attention, fused])
def test_what_is_prepared_follows_the_weights(
    make: Callable[[int, Impl], nn.Module], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Load and cast weights: the results follow the new ones, never the old prepared form."""
    forbid_preparing(monkeypatch)
    module, other = make(0, "triton").to(device), make(1, "reference").to(device)
    tokens = torch.randn(1, 8, 8, 16, device=device)
    assert module.state_dict().keys() == other.state_dict().keys()
    # Different weights give different results, so the comparisons below mean something.
    assert not torch.allclose(module(tokens), other(tokens), atol=1e-3)
    module.load_state_dict(other.state_dict())
    torch.testing.assert_close(module(tokens), other(tokens), rtol=1e-4, atol=1e-5)
    half = module.half()(tokens.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), other(tokens), rtol=0.01, atol=0.01)


def test_an_exported_program_names_the_operators(image: Tensor, device: torch.device) -> None:
    network = for_inference(trained(0), "triton").to(device)
    program = torch.export.export(network, (image,))
    operators = [str(node.target) for node in program.graph.nodes]
    # Two attention blocks and one DFE in each of the four stages, and nothing that prepares their weights.
    assert operators.count("resformer.window_attention.default") == 8
    assert operators.count("resformer.dilated_fusion.default") == 4
    assert not any("pack" in name or "index_select" in name for name in operators)
