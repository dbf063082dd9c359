"""The network on the Triton kernels equals the network on the reference."""

from functools import partial

import pytest
import torch

import model.inference
import model.swin
from kernels import dilated_fusion, window_attention
from model import ModelConfig, build_model
from model.inference import for_inference


def test_network_on_the_kernels_equals_the_reference(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    torch.manual_seed(0)
    config = ModelConfig(image_size=64, channels=(16, 32, 64, 128), resnet_blocks=(1, 1, 1, 1), head_dim=16)
    network = for_inference(build_model(config)).to(device)
    for table in (module.bias_table for module in network.modules() if hasattr(module, "bias_table")):
        torch.nn.init.normal_(table)  # zeros, as training starts, would hide the bias
    image = torch.rand(1, 3, 64, 64, device=device)
    answers = []
    for impl in ("reference", "triton"):
        monkeypatch.setattr(model.swin, "window_attention", partial(window_attention, impl=impl))
        monkeypatch.setattr(model.inference, "dilated_fusion", partial(dilated_fusion, impl=impl))
        with torch.inference_mode():
            answers.append(network(image))
    for reference, triton in zip(*answers, strict=True):
        torch.testing.assert_close(triton, reference, rtol=1e-4, atol=1e-5)
