"""Check what a session makes of contenders that are right, wrong, broken or too late."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.gpu.session import Reference, Row, Run, Session, compile_fresh
from tests.bench.gpu.tiny import session

EXACT = torch.linspace(1.0, 2.0, 100, dtype=torch.float64)
EAGER = EXACT.half()


def returning(result: Tensor) -> Callable[[], Run]:
    """Open a contender of that result."""
    return lambda: lambda: [result]


def refusing() -> Run:
    raise RuntimeError("\n  No available kernel.\nmore")


def measured(contenders: dict[str, Callable[[], Run]], **options: Any) -> list[Row]:
    rows: list[Row] = []
    session(rows.append, **options).measure("table", "case", contenders, lambda: Reference([EXACT], [EAGER]))
    return rows


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (EAGER, "measured"),
        (EXACT, "measured"),
        # 16 times eager's rounding.
        (EXACT.bfloat16(), "wrong"),
        (EXACT.clone().fill_(float("nan")), "wrong"),
        (torch.where(EXACT > 1.99, float("inf"), EXACT), "wrong"),
        (EXACT[:99], "failed"),
        (EXACT[:1], "failed"),  # which would be spread over the exact result
    ],
)
def test_only_what_is_right_is_timed(result: Tensor, state: str) -> None:
    timed: list[bool] = []

    def timer(work: Any, *, graph: bool) -> Any:
        timed.append(graph)
        return session(print).timer(work, graph=graph)

    (row,) = measured({"one": returning(result)}, timer=timer)
    assert row.state == state
    assert timed == ([True] if state == "measured" else [])
    assert (row.median_us is not None) == (state == "measured")
    assert bool(row.reason) == (state != "measured")


def test_the_error_is_given_relative_and_as_a_multiple_of_eagers() -> None:
    (row,) = measured({"one": returning(EXACT + 3 * (EAGER.double() - EXACT))})
    assert row.state == "wrong"
    assert row.of_eager == pytest.approx(3)
    size = EXACT.square().mean().sqrt()
    assert row.error == pytest.approx(float(3 * (EAGER.double() - EXACT).square().mean().sqrt() / size))


def test_results_that_are_judged_together_have_equal_weights() -> None:
    logits, exact = EAGER[:3], EXACT[:3]
    wrong = EXACT.half() * (1 + 1e-2)
    joined = Reference([EXACT, exact], [EAGER, exact.half()], joined=True)
    # By luck eager has three logits without an error, and a right contender has some.
    lucky = Reference([EXACT, exact], [EAGER, exact], joined=True)
    assert lucky.compare([EAGER, logits])[1] < 2
    assert Reference([EXACT, exact], [EAGER, exact]).compare([EAGER, logits])[1] > 2
    # Three logits that are wrong are seen beside many pixels that are right.
    assert joined.compare([EAGER, wrong[:3]])[1] > 2
    assert joined.compare([wrong, logits])[1] > 2


def test_what_is_begun_is_announced_before_it_can_fail() -> None:
    heard: list[str] = []
    measured(
        {"broken": lambda: refusing(), "good": returning(EAGER)},
        announce=lambda row: heard.append(row.contender),
    )
    # Once to be prepared, once to be timed.
    assert heard == ["broken", "good", "good"]


def test_no_json_holds_nan() -> None:
    (row,) = measured({"one": returning(EXACT * float("nan"))})
    assert row.fields()["of_eager"] is None


def test_a_contender_that_fails_stops_no_other() -> None:
    first, second = measured({"broken": lambda: refusing(), "good": returning(EAGER)})
    assert (first.state, first.reason) == ("failed", "RuntimeError: No available kernel.")
    assert second.state == "measured"


def test_without_a_reference_nothing_is_timed() -> None:
    def reference() -> Reference:
        raise MemoryError("too large")

    rows: list[Row] = []
    session(rows.append).measure("table", "case", {"a": returning(EAGER), "b": returning(EAGER)}, reference)
    assert [(row.state, row.reason) for row in rows] == 2 * [
        ("failed", "there is no reference: MemoryError: too large")
    ]


def test_after_the_deadline_nothing_is_begun() -> None:
    begun: list[str] = []

    def opener(name: str) -> Callable[[], Run]:
        def open_it() -> Run:
            begun.append(name)
            return returning(EAGER)()

        return open_it

    rows: list[Row] = []
    one: Session = session(rows.append, deadline=time.monotonic() + 3600)

    def late(work: Any, *, graph: bool) -> Any:
        one.deadline = time.monotonic() - 1
        return session(print).timer(work, graph=graph)

    one.timer = late
    for case in ("first", "second"):
        one.measure("table", case, {"a": opener("a"), "b": opener("b")}, lambda: Reference([EXACT], [EAGER]))
    assert begun == ["a"]
    assert [row.state for row in rows] == ["measured", "left out", "left out", "left out"]


def test_a_device_that_does_not_answer_ends_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    rows: list[Row] = []
    with pytest.raises(RuntimeError, match="No available kernel"):
        session(rows.append, device=torch.device("cuda")).measure(
            "table", "case", {"a": lambda: refusing(), "b": returning(EAGER)}, lambda: Reference([EXACT], [EAGER])
        )
    assert [row.state for row in rows] == ["failed"]


def test_a_ninth_shape_is_compiled_and_not_run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Sequence[int]] = []

    def backend(module: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Any:
        compiled.append(inputs[0].shape)
        return module.forward

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, mode, **options: original(*args, **options, backend=backend))

    def double(values: Tensor) -> Tensor:
        return values * 2

    for length in range(2, 14):
        compile_fresh(double)(torch.zeros(length))
    assert [shape[0] for shape in compiled] == list(range(2, 14))
