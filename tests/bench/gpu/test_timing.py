"""Check the GPU's timer against an imitation of `torch.cuda`."""

import gc
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.gpu import timing
from bench.gpu.timing import Timing, captured, sample_clocks, time_on_gpu


class Cuda:
    """Imitate the parts of `torch.cuda` that the timer uses, and note what happens in which order.

    The device's clock moves by 1 ms a flush, and by what the work says.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now = 0.0
        cuda = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                cuda.log.append("event")
                self.at = cuda.now

            def elapsed_time(self, later: Any) -> float:
                return float(later.at - self.at)

        class CUDAGraph:
            def replay(self) -> None:
                cuda.log.append("replay")
                cuda.now += 5.0

        self.Event, self.CUDAGraph = Event, CUDAGraph
        self.Stream = lambda: SimpleNamespace(wait_stream=lambda other: None)
        self.current_stream = self.Stream

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def get_device_properties(self, device: str) -> Any:
        return SimpleNamespace(L2_cache_size=50 << 20, uuid="1-2")

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, graph: Any) -> Iterator[None]:
        assert not gc.isenabled()
        self.log.append("capture")
        yield
        self.log.append("captured")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """Put the imitation in the place of the real one."""
    fake = Cuda()
    for name in (
        "Event",
        "CUDAGraph",
        "Stream",
        "current_stream",
        "synchronize",
        "get_device_properties",
        "stream",
        "graph",
    ):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))

    def flush() -> None:
        fake.log.append("flush")
        fake.now += 1.0

    monkeypatch.setattr(torch, "empty", lambda *args, **options: SimpleNamespace(zero_=flush))
    return fake


def test_a_round_is_what_passes_between_its_events_with_the_l2_empty(cuda: Cuda) -> None:
    spent = iter(range(10_000))

    def work() -> None:
        cuda.log.append("work")
        cuda.now += 0.25 + 0.001 * next(spent)

    found = time_on_gpu(work, graph=False)
    assert timing.FEWEST <= len(found.microseconds) <= timing.MOST
    # In microseconds, without the flush, and none of the rounds of the warm-up.
    last = 250 + 1 * (next(spent) - 1)
    assert found.microseconds[-1] == pytest.approx(last)
    assert found.microseconds == sorted(found.microseconds)
    assert found.median == pytest.approx(last - (len(found.microseconds) - 1) / 2)
    rounds = " ".join(cuda.log).replace("synchronize", "").split()
    assert rounds == ["flush", "event", "work", "event"] * (len(rounds) // 4)


def test_as_a_graph_the_work_is_captured_once_after_it_ran_and_then_replayed(cuda: Cuda) -> None:
    def work() -> None:
        cuda.log.append("work")

    found = time_on_gpu(work, graph=True)
    assert set(found.microseconds) == {5000.0}
    ran = cuda.log.index("capture")
    assert cuda.log[:ran].count("work") == 3
    assert cuda.log[ran : ran + 3] == ["capture", "work", "captured"]
    assert "work" not in cuda.log[ran + 3 :]


def test_a_capture_that_fails_leaves_the_collector_as_it_was(cuda: Cuda) -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("cannot be captured")

    with pytest.raises(RuntimeError, match="cannot be captured"):
        captured(work)
    assert gc.isenabled()


def test_quantiles_are_rounds() -> None:
    found = Timing(microseconds=[float(one) for one in range(11)])
    assert (found.quantile(0.1), found.median, found.quantile(0.9)) == (1.0, 5.0, 9.0)


@pytest.mark.parametrize(
    ("told", "sample"),
    [
        (
            "1980, 2619, 41, 312.50\n",
            {"clocks.sm": 1980, "clocks.mem": 2619, "temperature.gpu": 41, "power.draw": 312.5},
        ),
        ("1980, 2619, 41, [N/A]\n", {}),
        ("No devices were found\n", {}),
    ],
)
def test_clocks_are_those_of_the_device_or_nothing(
    told: str, sample: dict[str, float], cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: Any) -> Any:
        assert command[:3] == ["nvidia-smi", "-i", "GPU-1-2"]
        return SimpleNamespace(stdout=told)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    assert sample_clocks() == sample


def test_without_a_gpu_there_are_no_clocks() -> None:
    if not torch.cuda.is_available():
        assert sample_clocks() == {}
