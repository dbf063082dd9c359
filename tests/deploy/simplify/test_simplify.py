"""Compare every rewrite with what it replaces, in float64, where rounding cannot hide a mistake."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deploy.simplify import REWRITES, simplify
from deploy.simplify.decoder import ClassifyFirst, StaticDFE, live_branches
from deploy.simplify.windows import (
    SCORES_AT_ONCE,
    StaticAttention,
    WindowedStage,
    scaled_query,
    token_order,
    window_groups,
)
from model import ModelConfig
from model.network.decoder import DFE, Decoder
from model.network.swin import SwinStage, WindowAttention
from tests.helpers.networks import SMALLEST, lived_in


def assert_same(actual: Tensor, expected: Tensor) -> None:
    """Check that two results differ by no more than float64 rounds."""
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def random_tables(module: nn.Module) -> None:
    """Fill the bias tables with noise."""
    # Fresh tables are nearly zero and would hide a wrong bias.
    for name, parameter in module.named_parameters():
        if name.endswith("bias_table"):
            nn.init.normal_(parameter)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    "config",
    [
        SMALLEST,
        replace(SMALLEST, design="parallel", seg_channels=1, dilations=(6, 12, 18), swin_blocks=3),
        replace(SMALLEST, image_size=48, dilations=(1, 40), head_levels=(1, 2, 3, 4)),
        replace(SMALLEST, full_resolution=True),
    ],
    ids=["sequential", "parallel", "48 px", "full resolution"],
)
def test_the_whole_network_is_the_same_function(config: ModelConfig) -> None:
    model = lived_in(config).double()
    random_tables(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = noise(3, 3, config.image_size, config.image_size)
    with torch.no_grad():
        for rewrites in (REWRITES, *((alone,) for alone in REWRITES)):
            for expected, actual in zip(model(image), simplify(model, rewrites)(image), strict=True):
                assert_same(actual, expected)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the original was changed"


@pytest.mark.parametrize("side", [3, 7, 14, 19])
@pytest.mark.parametrize("dilations", [(1, 2, 3), (6, 12, 18), (7, 14), (6, 6, 12), (2, 2), (12, 6, 12, 40, 40)])
def test_live_taps_give_the_sum_of_all_taps(side: int, dilations: tuple[int, ...]) -> None:
    x, weights = noise(2, 4, side, side), [noise(5, 4, 3, 3) for _ in dilations]
    branches = zip(weights, dilations, strict=True)
    everything = torch.stack([F.conv2d(x, weight, padding=d, dilation=d) for weight, d in branches]).sum(dim=0)
    live = live_branches(weights, dilations, side)
    left = [F.conv2d(x, weight, padding=d * (weight.shape[2] // 2), dilation=d) for d, weight in live.items()]
    assert_same(torch.stack(left).sum(dim=0), everything)
    reaching = {d for d in dilations if d < side}
    assert len(live) == max(1, len(reaching))
    assert {w.shape[2] for w in live.values()} == ({3} if reaching else {1})


@pytest.mark.parametrize("side", [5, 14, 20])
def test_dfe_of_one_size(side: int) -> None:
    torch.manual_seed(side)
    dfe = DFE(6, (6, 12, 18)).double().eval()
    for module in dfe.modules():
        # Fresh norms are the identity and would hide a wrong fold.
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean)
    x = noise(2, 6, side, side)
    with torch.no_grad():
        assert_same(StaticDFE(dfe, side)(x), dfe(x))


@pytest.mark.parametrize(("side", "window"), [(4, 4), (8, 4), (12, 4), (21, 7)])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_stage_in_window_order(side: int, window: int, blocks: int) -> None:
    torch.manual_seed(blocks)
    stage = SwinStage(16, 8, window, [0.0] * blocks).double().eval()
    random_tables(stage)
    tokens = noise(2, side, side, 16)
    with torch.no_grad():
        assert_same(WindowedStage(stage, side)(tokens), stage(tokens))


def test_a_stage_of_one_window_moves_no_token() -> None:
    stage = WindowedStage(SwinStage(16, 8, 4, [0.0, 0.0]).eval(), 4)
    assert all(buffer is None for name, buffer in stage._buffers.items() if name.startswith("gather"))


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_windows_come_in_kinds(shift: int) -> None:
    groups = window_groups(56, 7, shift)
    assert torch.equal(token_order(groups).sort().values, torch.arange(56 * 56))
    assert [group.regions is None for group in groups] == ([True] if shift == 0 else [True, False, False, False])
    assert [len(group.windows) for group in groups] == ([64] if shift == 0 else [49, 7, 7, 1])


def test_scores_of_many_windows_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []  # windows of each part
    attend = StaticAttention._attend

    def counted(self: StaticAttention, qkv: Tensor, bias: Tensor) -> Tensor:
        made.append(qkv.shape[1])
        return attend(self, qkv, bias)

    monkeypatch.setattr(StaticAttention, "_attend", counted)
    # 16 windows of 1,024 tokens, as at 512 px.
    StaticAttention(WindowAttention(8, 1, 32, shifted=True), 128)(noise(1, 128 * 128, 8).float())
    assert sum(made) == 16
    assert max(made) * 32**4 <= SCORES_AT_ONCE


def test_attention_with_the_scale_in_its_weights() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(24, 8, 4, shifted=True).double()
    random_tables(attention)
    tokens = noise(2, 8, 8, 24)
    order = token_order(window_groups(8, 4, 2))
    with torch.no_grad():
        expected = attention(tokens).flatten(1, 2)[:, order]
        assert_same(StaticAttention(attention, 8)(tokens.flatten(1, 2)[:, order]), expected)
        query, *rest = scaled_query(attention.qkv, 0.5)(tokens).chunk(3, dim=-1)
        whole = attention.qkv(tokens).chunk(3, dim=-1)
    assert_same(query, whole[0] * 0.5)
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[1:], strict=True))


def test_classifying_before_upsampling() -> None:
    decoder = Decoder((8, 16, 32, 64), 3).double().eval()
    features = [noise(2, 8 * 2**i, 24 // 2**i, 24 // 2**i) for i in range(4)]
    with torch.no_grad():
        image = noise(2, 3, 48, 48)
        assert_same(ClassifyFirst(decoder)(features, image), decoder(features, image))
