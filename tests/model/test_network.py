"""Check the network's shape and size, and its blocks against formulas written out independently."""

import math
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from model import PRESETS, ModelConfig, MultiTaskResFormer, build_model
from model.config import Design
from model.network.encoder import ResFormerStage
from model.network.layers import ChannelGate, DropPath
from model.network.swin import SwinBlock
from tests.helpers.networks import SMALLEST


@pytest.mark.parametrize(
    ("preset", "parameters", "gmac"),
    [("paper-224", (44.1, 44.4), (30.6, 31.3)), ("paper-512", (44.1, 44.6), (187, 189))],
)
def test_paper_presets_have_the_papers_size(
    preset: str, parameters: tuple[float, float], gmac: tuple[float, float]
) -> None:
    with torch.device("meta"):
        model = build_model(preset).eval()
        image = torch.zeros(1, 3, model.config.image_size, model.config.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    assert parameters[0] <= sum(p.numel() for p in model.parameters()) / 1e6 <= parameters[1]
    assert gmac[0] <= counter.get_total_flops() / 2e9 <= gmac[1]


@pytest.mark.parametrize("design", ["sequential", "parallel"])
@pytest.mark.parametrize("levels", [(4,), (3, 4), (1, 2, 3, 4)])
def test_both_designs_give_logits_of_both_tasks(design: Design, levels: tuple[int, ...]) -> None:
    model = build_model(replace(SMALLEST, design=design, head_levels=levels, seg_channels=5, labels=2)).eval()
    segmentation, classification = model(torch.randn(3, 3, 64, 128))
    assert segmentation.shape == (3, 5, 64, 128)
    assert classification.shape == (3, 2)


def test_the_designs_differ_only_in_how_they_connect() -> None:
    sequential, parallel = build_model(SMALLEST), build_model(replace(SMALLEST, design="parallel"))
    parallel.load_state_dict(sequential.state_dict())
    image = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(sequential.eval()(image).segmentation, parallel.eval()(image).segmentation)


def test_every_parameter_is_reached_by_the_two_tasks(network: MultiTaskResFormer) -> None:
    segmentation, classification = network.train()(torch.randn(2, 3, 64, 64))
    (segmentation.square().mean() + classification.square().mean()).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("shape", [(1, 3, 65, 64), (1, 3, 64, 80), (1, 3, 0, 64), (1, 1, 64, 64), (3, 64, 64)])
def test_images_that_do_not_fit_are_refused_with_rule_and_value(
    network: MultiTaskResFormer, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"must .*, got .*\d"):
        network(torch.zeros(shape))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 100),
        ("image_size", 16),
        ("image_size", 1040),
        ("image_size", 64.0),
        ("image_size", "64"),
        ("image_size", None),
        ("seg_channels", 2),
        ("seg_channels", 257),
        ("seg_channels", True),
        ("channels", (64, 128, 256)),
        ("channels", [64, 128, 256, 512]),
        ("channels", (12, 24, 48, 96)),
        ("channels", (512, 1024, 2048, 4096)),
        ("channels", (8.0, 16, 32, 64)),
        ("channels", 64),
        ("channels", (64, 96, 256, 512)),
        ("head_dim", 48),
        ("head_dim", 0),
        ("head_dim", 32.0),
        ("resnet_blocks", (3, 4, 6)),
        ("resnet_blocks", (3, 4, 0, 3)),
        ("swin_blocks", 0),
        ("swin_blocks", 65),
        ("design", "serial"),
        ("design", ["sequential"]),
        ("dilations", (0, 1)),
        ("dilations", ()),
        ("dilations", (6, 2**31)),
        ("dilations", (True,)),
        ("dilations", 6),
        ("head_levels", (5,)),
        ("head_levels", ()),
        ("head_levels", [3, 4]),
        ("head_levels", (3.0,)),
        ("drop_path", 1.0),
        ("drop_path", float("nan")),
        ("drop_path", "0.1"),
        ("drop_path", False),
        ("full_resolution", 1),
        ("full_resolution", None),
        ("labels", 0),
        ("labels", 1001),
    ],
)
def test_configurations_that_do_not_fit_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must be .*, got "):
        ModelConfig(**{field: value})  # type: ignore[arg-type]


def test_a_decoder_at_the_images_size_sees_single_pixels_of_the_image() -> None:
    torch.manual_seed(0)
    model = build_model(replace(SMALLEST, full_resolution=True)).eval()
    image = torch.zeros(1, 3, 64, 64)
    plain = model(image).segmentation
    assert plain.shape == (1, 4, 64, 64)
    # Where the encoder is cut off, a pixel still reaches those around it.
    for parameter in model.decoder.blocks.parameters():
        torch.nn.init.zeros_(parameter)
    flat = model(image).segmentation
    image[..., 20, 30] = 1
    changed = (model(image).segmentation != flat).any(1)[0].nonzero()
    assert changed.amin(0).tolist() == [18, 28] and changed.amax(0).tolist() == [22, 32]


def test_every_parameter_of_the_decoder_at_the_images_size_is_reached() -> None:
    model = build_model(replace(SMALLEST, full_resolution=True)).train()
    model(torch.randn(2, 3, 64, 64)).segmentation.square().mean().backward()
    assert not [name for name, p in model.decoder.named_parameters() if p.grad is None or not p.grad.any()]


def test_the_small_preset_of_the_papers_size_stays_below_12_mb() -> None:
    config = PRESETS["tiny-224"]
    with torch.device("meta"):
        model = build_model(config)
    # Stored in half precision.
    assert sum(tensor.numel() for tensor in model.state_dict().values()) * 2 < 12e6
    assert config.window_size == 14 and config.channels == PRESETS["tiny"].channels


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"paper-224.*got 'huge'"):
        build_model("huge")


def test_windows_are_a_sixteenth_of_the_image_and_the_last_stage_is_never_shifted() -> None:
    assert PRESETS["paper-224"].window_size == 14
    assert PRESETS["paper-512"].window_size == 32
    with torch.device("meta"):
        first = build_model("paper-224").encoder.stages[0]
    assert isinstance(first, ResFormerStage)
    assert [cast(SwinBlock, block).attention.shift_size for block in first.swin] == [0, 7]


def test_channel_gate_against_the_formula_per_channel() -> None:
    gate = ChannelGate()
    x = torch.randn(2, 3, 5, 7)
    left, middle, right = gate.conv.weight.flatten().tolist()
    means = F.pad(x.mean(dim=(1, 2)), (1, 1)).tolist()
    for b, row in enumerate(means):
        for c in range(7):
            score = left * row[c] + middle * row[c + 1] + right * row[c + 2]
            expected = x[b, :, :, c] * (1 + 1 / (1 + math.exp(-score)))
            torch.testing.assert_close(gate(x)[b, :, :, c], expected)


def test_drop_path_keeps_the_expectation_and_rests_in_evaluation() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(20_000, 1)
    out = drop(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    assert drop.eval()(x) is x
