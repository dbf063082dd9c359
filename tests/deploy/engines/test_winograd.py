"""Test the choice between a convolution's two forms."""

from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from deploy.engines import openvino_winograd
from deploy.engines.openvino_winograd import FEWEST, MOST, WORTHWHILE, Choices, decided, mark_faster
from deploy.network import winograd
from deploy.network.winograd import Shape

SHAPE = Shape(32, 32, 8, 1)
needs_operator = pytest.mark.skipif(bool(winograd.reason_against()), reason=winograd.reason_against())


def two_convolutions() -> openvino.Model:
    """Make a graph of a convolution that has a Winograd form, and of one with a stride, which has none."""
    image = ops.parameter([1, 32, 8, 8], np.float32)
    weight = ops.constant(np.ones((32, 32, 3, 3), np.float32))
    plain = ops.convolution(image, weight, *[[1, 1]] * 4)
    plain.set_friendly_name("plain")
    return openvino.Model([ops.convolution(plain, weight, [2, 2], *[[1, 1]] * 3)], [image])


@needs_operator
@pytest.mark.parametrize("faster", [True, False])
def test_only_what_is_faster_is_marked(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[Shape] = []
    monkeypatch.setattr(
        openvino_winograd,
        "winograd_is_faster",
        lambda shape, threads: timed.append(shape) or faster,  # type: ignore[func-returns-value]
    )
    model = two_convolutions()
    assert mark_faster(model, 1, lambda phase, share: None) == int(faster)
    assert timed == [SHAPE]
    assert winograd.marked(model) == (["plain"] if faster else [])


def test_without_the_operator_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "reason_against", lambda: "no compiler")
    model, said = two_convolutions(), list[str]()
    assert mark_faster(model, 1, lambda phase, share: said.append(phase)) == 0
    assert said == ["Winograd's form is left out: no compiler"]
    assert winograd.marked(model) == []


@needs_operator
def test_the_choice_is_made_by_timing_both_forms() -> None:
    # None on a machine that is too busy to tell.
    assert openvino_winograd.winograd_is_faster(SHAPE, 1) in (True, False, None)


def test_rounds_that_disagree_decide_nothing() -> None:
    slower, faster = WORTHWHILE + 0.05, WORTHWHILE - 0.05
    assert decided([faster] * FEWEST)
    assert decided([slower] * FEWEST)
    assert not decided([faster, slower] * (MOST // 2))
    # One round beside another process is outvoted, however long it took.
    assert decided([faster] * 15 + [1000.0])


def test_a_choice_is_remembered_for_this_processor_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "openvino.timing_cache"
    Choices(file, 2).set(SHAPE, faster=True)
    Choices(file, 1).set(SHAPE, faster=False)
    assert [Choices(file, threads).get(SHAPE) for threads in (2, 1, 4)] == [True, False, None]
    monkeypatch.setattr(openvino_winograd, "processor", lambda: "another")
    assert Choices(file, 2).get(SHAPE) is None
    file.write_text("damaged")
    assert Choices(file, 2).get(SHAPE) is None
