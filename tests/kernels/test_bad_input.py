"""Refuse bad arguments in one line that states the rule and the values found."""

import re
from typing import Any

import pytest
import torch

from kernels import (
    KernelInputError,
    dilated_fusion,
    pack_taps,
    prepare_bias,
    window_attention,
)
from kernels.attention.api import kernel_refusal
from kernels.dilated.api import kernel_refusal as dilated_refusal

QKV = torch.zeros(1, 8, 12, 96)
TABLE = torch.zeros(49, 2)
GOOD: dict[str, Any] = {"qkv": QKV, "bias_table": TABLE, "num_heads": 2, "window_size": 4, "shift_size": 1}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"qkv": QKV.numpy()}, "qkv must be a tensor, got ndarray"),
        ({"bias_table": None}, "bias_table must be a tensor, got NoneType"),
        ({"shift_size": 1.0}, "shift_size must be a whole number, got 1.0"),
        ({"shift_size": True}, "shift_size must be a whole number, got True"),
        ({"qkv": QKV[0]}, r"4 axes \(B, H, W, 3C\), got shape \(8, 12, 96\)"),
        ({"qkv": QKV[:0]}, r"at least 1 image, got shape \(0, 8, 12, 96\)"),
        ({"qkv": QKV.int()}, "qkv must be float16.*got torch.int32"),
        ({"num_heads": 5}, "num_heads must evenly divide.*num_heads=5, 3C=96"),
        ({"num_heads": 0}, "must be positive, got num_heads=0"),
        ({"window_size": 3}, "window_size must evenly divide H and W, got window_size=3, H=8, W=12"),
        ({"shift_size": 4}, "below window_size, got shift_size=4, window_size=4"),
        ({"shift_size": -1}, "at least 0.*shift_size=-1"),
        ({"bias_table": TABLE[1:]}, r"= \(49, 2\), got \(48, 2\)"),
        ({"bias_table": TABLE.half()}, "qkv's dtype or float32, got torch.float16 beside torch.float32"),
        ({"bias_table": TABLE.to("meta")}, "on qkv's device, got meta beside cpu"),
        ({"scale": 0.0}, "scale must be positive and finite, got 0.0"),
        ({"scale": float("nan")}, "scale must be positive and finite, got nan"),
        ({"scale": "x"}, "scale must be a number, got 'x'"),
        ({"scale": True}, "scale must be a number, got True"),
        ({"bias_rows": [1]}, "bias_rows must be a tensor, got list"),
        ({"impl": "cuda"}, "impl must be one of auto, reference, triton, got 'cuda'"),
    ],
)
def test_attention_states_the_rule(change: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelInputError, match=message) as caught:
        window_attention(**{**GOOD, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "qkv, heads, window, message",
    [
        (torch.zeros(1, 8, 8, 72), 1, 8, r"head dim must be one of \(16, 32, 64\), got 24"),
        (torch.zeros(1, 3, 3, 48), 1, 3, "window_size must be 4 to 32, got 3"),
        (torch.zeros(1, 4, 4, 48, dtype=torch.float64), 1, 4, "got torch.float64"),
        # Expanded, so that three billion values take no memory.
        (torch.zeros(1, 1, 1, 48).expand(2**20, 8, 8, 48), 1, 4, "fewer than 2147483648 values .* got 3221225472"),
    ],
)
def test_the_kernel_refuses_what_it_can_not_do(qkv: torch.Tensor, heads: int, window: int, message: str) -> None:
    refusal = kernel_refusal(qkv, heads, window)
    assert refusal is not None and re.search(message, refusal)


def test_an_explicit_choice_never_falls_back() -> None:
    with pytest.raises(KernelInputError, match="impl='triton' is not possible for window_attention: head dim"):
        window_attention(torch.zeros(1, 4, 4, 72), torch.zeros(49, 1), num_heads=1, window_size=4, impl="triton")


def test_prepared_bias_must_fit() -> None:
    rows = prepare_bias(TABLE, window_size=4, shift_size=0, scale=0.25)
    with pytest.raises(
        KernelInputError, match=r"float32 \(2, 3, 28, 4\).*shift_size=1.*got torch.float32 \(2, 1, 28, 4\)"
    ):
        window_attention(**GOOD, bias_rows=rows)
    # Rows of the right shape, but on another device.
    fitting = prepare_bias(TABLE, window_size=4, shift_size=1, scale=0.25)
    with pytest.raises(KernelInputError, match="bias_rows must be on qkv's device, got meta beside cpu"):
        window_attention(**GOOD, bias_rows=fitting.to("meta"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bias_table": None}, "bias_table must be a tensor, got NoneType"),
        ({"bias_table": TABLE[1:]}, r"= \(49, heads\), got \(48, 2\)"),
        ({"window_size": 4.0}, "window_size must be a whole number, got 4.0"),
        ({"shift_size": 4}, "below window_size, got shift_size=4, window_size=4"),
        ({"scale": 0.0}, "scale must be positive and finite, got 0.0"),
    ],
)
def test_what_cannot_be_prepared_is_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"bias_table": TABLE, "window_size": 4, "shift_size": 1, "scale": 0.25}
    with pytest.raises(KernelInputError, match=message):
        prepare_bias(**{**good, **change})


X = torch.zeros(1, 5, 6, 16)
WEIGHT = torch.zeros(2, 8, 16, 3, 3)
GOOD_FUSION: dict[str, Any] = {"x": X, "weight": WEIGHT, "bias": torch.zeros(8), "dilations": (1, 2)}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": X[0]}, r"4 axes \(B, H, W, C_in\), got shape \(5, 6, 16\)"),
        ({"x": X[:0]}, r"at least 1, got shape \(0, 5, 6, 16\)"),
        ({"x": X.long()}, "x must be float16.*got torch.int64"),
        ({"x": X[..., :15]}, r"\(branches, C_out, 15, 3, 3\) for x of 15 channels, got \(2, 8, 16, 3, 3\)"),
        ({"weight": WEIGHT.half()}, "weight must have one of the dtypes .* got torch.float16"),
        ({"bias": torch.zeros(9)}, r"= \(8,\), got \(9,\)"),
        ({"bias": torch.zeros(8, device="meta")}, "bias must be on x's device, got meta beside cpu"),
        ({"bias": [0.0] * 8}, "bias must be a tensor, got list"),
        ({"dilations": 6}, "dilations must be a sequence, got 6"),
        ({"taps": 3}, "taps must be a tensor, got int"),
        ({"dilations": (1, 2.0)}, r"dilations\[1\] must be a whole number, got 2.0"),
        ({"dilations": (1,)}, r"one positive value a branch, got \(1,\) for 2 branches"),
        ({"dilations": (1, 0)}, r"one positive value a branch, got \(1, 0\)"),
    ],
)
def test_dilated_fusion_states_the_rule(change: dict[str, Any], message: str) -> None:
    with pytest.raises(KernelInputError, match=message):
        dilated_fusion(**{**GOOD_FUSION, **change})


def test_dilated_kernel_refuses_more_values_than_its_offsets_reach() -> None:
    refusal = dilated_refusal(torch.zeros(1, 1, 1, 16).expand(2**20, 16, 16, 16), WEIGHT, torch.zeros(8), 8)
    assert refusal is not None and "fewer than 2147483648 values (offsets are int32), got 4294967296" in refusal


def test_dilated_kernel_refuses_to_train(device: torch.device) -> None:
    tensors = (X.to(device), WEIGHT.to(device).requires_grad_(), torch.zeros(8, device=device))
    with pytest.raises(KernelInputError, match="it has no gradient"):
        dilated_fusion(*tensors, dilations=(1, 2), impl="triton")
    # The kernel runs on weights that require gradients as long as none is asked for.
    with torch.no_grad():
        assert dilated_fusion(*tensors, dilations=(1, 2), impl="triton").shape == (1, 5, 6, 8)


@pytest.mark.parametrize(
    "weight, dilations, message",
    [
        (None, (1, 2), "weight must be a tensor, got NoneType"),
        (WEIGHT[0], (1, 2), r"\(branches, C_out, C_in, 3, 3\), got \(8, 16, 3, 3\)"),
        # The branch without a dilation was left out without a word.
        (WEIGHT, (1,), r"one positive value a branch, got \(1,\) for 2 branches"),
        (WEIGHT, (1, 2, 3), r"one positive value a branch, got \(1, 2, 3\) for 2 branches"),
        (WEIGHT, (1, -2), r"one positive value a branch, got \(1, -2\)"),
    ],
)
def test_what_cannot_be_packed_is_refused(weight: Any, dilations: tuple[int, ...], message: str) -> None:
    with pytest.raises(KernelInputError, match=message):
        pack_taps(weight, dilations)


def test_packed_taps_must_fit() -> None:
    # Equal dilations share all nine taps.
    taps = pack_taps(WEIGHT, (1, 1))
    assert taps.shape == (9, 16, 8)
    with pytest.raises(KernelInputError, match=r"\(17, 16, 8\) for dilations \(1, 2\), got \(9, 16, 8\)"):
        dilated_fusion(**GOOD_FUSION, taps=taps)
    with pytest.raises(KernelInputError, match=r"taps must have one of the dtypes .* got torch.float16"):
        dilated_fusion(**GOOD_FUSION, taps=pack_taps(WEIGHT.half(), (1, 2)))
