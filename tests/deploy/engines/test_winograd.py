"""Compare Winograd's form of a 3x3 convolution with PyTorch's own in float64, and test the choice between the two."""

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from openvino import opset13 as ops

from deploy.engines import openvino_forms
from deploy.engines.openvino_forms import FEWEST, MOST, WORTHWHILE, Choices, Shape, decided, use_winograd
from deploy.engines.openvino_winograd import INPUT, OUTPUT, TILE, WEIGHT, convolution
from deploy.network.openvino_session import core

ROUNDING = 2e-5  # of the largest output: about ten times a plain float32 convolution's


def compiled(model: openvino.Model) -> openvino.CompiledModel:
    """Compile a model to compute in float32: by itself OpenVINO takes bf16 where the processor has it."""
    return core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def run(image: np.ndarray, weight: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Convolve an image in Winograd's form, in a graph with a dynamic batch."""
    side = image.shape[2]
    source = ops.parameter([-1, weight.shape[1], side, side], np.float32)
    model = openvino.Model([convolution(source.output(0), weight, side)], [source])
    return np.asarray(compiled(model)([image])[0])


def test_the_matrices_are_a_convolution() -> None:
    """Convolve one tile of one axis in float64."""
    random = np.random.default_rng(0)
    values, kernel = random.standard_normal(INPUT.shape[1]), random.standard_normal(3)
    expected = np.correlate(values, kernel, "valid")
    np.testing.assert_allclose(OUTPUT @ ((WEIGHT @ kernel) * (INPUT @ values)), expected, rtol=1e-12, atol=1e-12)
    assert len(expected) == TILE


@settings(max_examples=8, deadline=None)
@given(
    side=st.integers(1, 19),
    c_in=st.integers(1, 9),
    c_out=st.integers(1, 9),
    batch=st.integers(1, 3),
    seed=st.integers(0),
)
def test_any_size_with_a_dynamic_batch(side: int, c_in: int, c_out: int, batch: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    image = random.standard_normal((batch, c_in, side, side)).astype(np.float32)
    weight = random.standard_normal((c_out, c_in, 3, 3)).astype(np.float32)
    expected = torch.conv2d(torch.from_numpy(image).double(), torch.from_numpy(weight).double(), padding=1).numpy()
    np.testing.assert_allclose(run(image, weight), expected, atol=ROUNDING * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("winograd", [True, False])
def test_only_what_is_faster_is_rewritten(winograd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[Shape] = []
    monkeypatch.setattr(
        openvino_forms,
        "winograd_is_faster",
        lambda core, shape, threads: timed.append(shape) or winograd,  # type: ignore[func-returns-value]
    )
    random = np.random.default_rng(0)
    source = ops.parameter([1, 4, 12, 12], np.float32)
    plain = ops.convolution(source, ops.constant(random.standard_normal((6, 4, 3, 3), np.float32)), *[[1, 1]] * 4)
    # A stride of 2 has no Winograd form here.
    strided = ops.convolution(
        plain, ops.constant(random.standard_normal((6, 6, 3, 3), np.float32)), [2, 2], [1, 1], [1, 1], [1, 1]
    )
    model = openvino.Model([strided], [source])
    image = random.standard_normal((1, 4, 12, 12), np.float32)
    expected = compiled(model)([image])[0]
    assert use_winograd(core(), model, 1, lambda phase, share: None) == int(winograd)
    assert timed == [Shape(6, 4, 12)]
    convolutions = [node for node in model.get_ops() if node.get_type_name() == "Convolution"]
    assert len(convolutions) == (1 if winograd else 2)
    np.testing.assert_allclose(compiled(model)([image])[0], expected, atol=ROUNDING * np.abs(expected).max())


def test_the_choice_is_made_by_timing_both_forms() -> None:
    # None on a machine that is too busy to tell.
    assert openvino_forms.winograd_is_faster(core(), Shape(8, 8, 8), 1) in (True, False, None)


def test_rounds_that_disagree_decide_nothing() -> None:
    slower, faster = WORTHWHILE + 0.05, WORTHWHILE - 0.05
    assert decided([faster] * FEWEST)
    assert decided([slower] * FEWEST)
    assert not decided([faster, slower] * (MOST // 2))
    # One round beside another process is outvoted, however long it took.
    assert decided([faster] * 15 + [1000.0])


def test_a_choice_is_remembered_for_this_processor_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, shape = tmp_path / "openvino.timing_cache", Shape(8, 8, 8)
    Choices(file, 2).set(shape, faster=True)
    Choices(file, 1).set(shape, faster=False)
    assert [Choices(file, threads).get(shape) for threads in (2, 1, 4)] == [True, False, None]
    monkeypatch.setattr(openvino_forms, "processor", lambda: "another")
    assert Choices(file, 2).get(shape) is None
    file.write_text("damaged")
    assert Choices(file, 2).get(shape) is None
