"""Check that the benchmarks of the kernels are the measurements of `bench.gpu`."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench import test_kernels as benchmarks
from bench.gpu.attention import AttentionCase
from bench.gpu.session import Row
from kernels.cost_model import DilatedProblem
from tests.bench.gpu import tiny

PROBLEM = DilatedProblem(batch=2, height=6, width=6, c_in=16, c_out=16, dilations=(1, 2), dtype=torch.float16)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure on the CPU, with a timer that runs the work once."""
    monkeypatch.setattr(benchmarks, "Session", lambda write, timer: tiny.session(write, timer=timer))
    monkeypatch.setattr(benchmarks, "time_on_gpu", tiny.run_once)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")


class Benchmark:
    """Imitate pytest-benchmark's fixture."""

    def __init__(self) -> None:
        self.group, self.extra_info = "", dict[str, Any]()
        self.data: list[float] = [1.0]
        # The one has the rounds, the other adds to them.
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=self.data), update=self.data.append)

    def pedantic(self, function: Any) -> None:
        function()


def test_a_benchmark_takes_the_rounds_of_its_contender() -> None:
    (case,) = tiny.cases("dilated:launched")
    found = benchmarks.measured_dilated(case)
    assert tuple(found) == benchmarks.DILATED
    for contender in benchmarks.DILATED:
        benchmark: Any = Benchmark()
        benchmarks.take(benchmark, found, contender, PROBLEM, "some group")
        assert benchmark.data == pytest.approx([1e-6, 2e-6, 3e-6])
        assert benchmark.extra_info["gigabytes_per_second"] == pytest.approx(PROBLEM.compulsory_bytes / 2e-6 / 1e9)
        assert benchmark.extra_info["teraflops"] == pytest.approx(PROBLEM.flops / 2e-6 / 1e12)


def test_attention_has_the_contenders_of_both_steps() -> None:
    case = AttentionCase(name="tiny", batch=1, size=4, heads=1, window=4, head_dim=16)
    assert tuple(benchmarks.measured_attention(case)) == benchmarks.ATTENTION


@pytest.mark.parametrize(
    ("contender", "state", "outcome"),
    [
        ("ours", "failed", AssertionError),
        ("eager", "wrong", AssertionError),
        ("eager", "failed", pytest.skip.Exception),
    ],
)
def test_what_is_wrong_fails_and_a_peer_that_refuses_is_skipped(contender: str, state: Any, outcome: Any) -> None:
    row = Row(table="dilated", case="c", contender=contender).without_time(state, "the reason")
    benchmark: Any = Benchmark()
    with pytest.raises(outcome, match="the reason"):
        benchmarks.take(benchmark, {contender: (row, benchmarks.NO_TIME)}, contender, PROBLEM, "group")
