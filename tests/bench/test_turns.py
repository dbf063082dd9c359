"""Check how benchmarks take turns, on clocks that the tests set, and how pytest-benchmark takes the result over."""

import hashlib
import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.turns import Groups, UnavailableError, percentiles_ms
from deploy.verify.turns import Rounds, settle, take_turns
from tests.helpers.imports import ROOT

FOUR = Rounds(most=4, fewest=4, warm_up=2)


def silent(_text: str) -> None:
    """Say nothing."""


class Recorder:
    """Make operations that note their calls and take a number of seconds of their own."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def operation(self, name: str, first: float) -> Callable[[], float]:
        """Return an operation that says that it took `first` seconds, then one more each time."""
        seconds = iter(range(1000))

        def run() -> float:
            self.calls.append(name)
            return first + next(seconds)

        return run


def test_each_round_runs_every_operation_once_in_an_order_that_changes() -> None:
    recorder, names = Recorder(), [f"engine {number}" for number in range(5)]
    taken = take_turns({name: recorder.operation(name, 0.0) for name in names}, FOUR, silent)
    rounds = [recorder.calls[start : start + 5] for start in range(0, len(recorder.calls), 5)]
    assert len(rounds) == 6
    assert all(sorted(one) == names for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    # The two rounds of the warm-up are not kept.
    assert taken == {name: [2.0, 3.0, 4.0, 5.0] for name in names}


def test_a_group_out_of_time_still_has_its_fewest_rounds() -> None:
    operations = {"engine": Recorder().operation("engine", 0.0)}
    assert len(take_turns(operations, Rounds(most=9, fewest=3, seconds=0, warm_up=0), silent)["engine"]) == 3
    assert len(take_turns(operations, Rounds(most=9, fewest=3, seconds=1e9, warm_up=0), silent)["engine"]) == 9


def test_a_run_waits_until_the_threads_of_the_one_before_sleep() -> None:
    # Hashing keeps a core busy outside of Python, as an engine's threads do.
    data, begun = bytes(40_000_000), time.process_time()
    thread = threading.Thread(target=hashlib.sha256, args=(data,))
    thread.start()
    settle()
    settled = time.process_time()
    thread.join()
    # CPU time of this process, which other programs do not change.
    assert time.process_time() - settled < (settled - begun) / 10


def test_a_group_is_measured_once_and_each_failure_is_its_own() -> None:
    recorder, said = Recorder(), list[str]()

    def broken() -> Callable[[], float]:
        raise UnavailableError("needs a GPU")

    def dies() -> float:
        raise RuntimeError("out of memory")

    openers = {
        "good": lambda: recorder.operation("good", 10.0),
        "absent": broken,
        "dying": lambda: dies,
    }
    groups = Groups(said.append)
    members = groups.measure("network", openers, FOUR)
    assert members["good"].seconds == [13.0, 14.0, 15.0, 16.0]  # type: ignore[union-attr]
    assert [str(members[name]) for name in ("absent", "dying")] == ["needs a GPU", "out of memory"]
    calls = len(recorder.calls)
    assert groups.measure("network", openers, FOUR) is members
    assert len(recorder.calls) == calls
    assert "network: opening absent (2 of 3)" in said


def test_a_group_that_fails_in_its_rounds_is_not_measured_again() -> None:
    calls = []

    def third_time_out() -> float:
        calls.append("run")
        if len(calls) == 3:
            raise ConnectionError("the server is gone")
        return 1.0

    groups, openers = (
        Groups(silent),
        {"grpc": lambda: third_time_out, "http": lambda: Recorder().operation("http", 0.0)},
    )
    members = groups.measure("path", openers, FOUR)
    assert [str(members[name]) for name in openers] == ["the server is gone"] * 2
    assert groups.measure("path", openers, FOUR) is members
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("rounds", "known"), [(1, set()), (9, set()), (10, {"p90_ms"}), (99, {"p90_ms"}), (100, {"p90_ms", "p99_ms"})]
)
def test_percentiles_are_given_where_a_round_lies_beyond_them(rounds: int, known: set[str]) -> None:
    assert percentiles_ms([0.001] * rounds).keys() == known


def test_percentiles_agree_with_the_standard_library() -> None:
    seconds = [random.Random(0).expovariate(1) for _ in range(250)]
    hundredths = statistics.quantiles(seconds, n=100, method="inclusive")
    assert percentiles_ms(seconds) == pytest.approx({"p90_ms": 1000 * hundredths[89], "p99_ms": 1000 * hundredths[98]})


# Benchmarks of fake engines, whose "seconds" are known.
SUITE = """
import pytest
from bench.turns import Groups, UnavailableError, turn_of
from deploy.verify.turns import Rounds

SECONDS = {"ours": OURS, "peer": 3.0}

@pytest.fixture(scope="session")
def groups():
    return Groups(lambda text: print(text))

@pytest.fixture
def turn(request, benchmark, groups):
    return turn_of(request, benchmark, groups)

def opened(name):
    with open("opened", "a") as file:
        file.write(name + " ")
    if name == "absent":
        raise UnavailableError("needs a GPU")
    return lambda: SECONDS[name]

@pytest.mark.parametrize("contender", ["ours", "peer", "absent"])
def test_engine(turn, contender):
    openers = {name: (lambda name=name: opened(name)) for name in ("ours", "peer", "absent")}
    turn.measure("network, batch 1", openers, Rounds(most=12, fewest=12, warm_up=1))
"""


def run_suite(folder: Path, *options: str, ours: float = 2.0) -> "subprocess.CompletedProcess[str]":
    """Run the fake benchmarks with pytest-benchmark in a fresh process, where our engine takes `ours` seconds."""
    (folder / "test_suite.py").write_text(SUITE.replace("OURS", str(ours)))
    (folder / "opened").unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "test_suite.py", *options]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def test_pytest_benchmark_takes_the_rounds_over(tmp_path: Path) -> None:
    finished = run_suite(tmp_path, "--benchmark-only", "--benchmark-json=out.json")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "needs a GPU" in finished.stdout
    benchmarks = json.loads((tmp_path / "out.json").read_text())["benchmarks"]
    assert {one["name"]: one["stats"]["data"] for one in benchmarks} == {
        "test_engine[ours]": [2.0] * 12,
        "test_engine[peer]": [3.0] * 12,
    }
    assert all(
        one["stats"]["rounds"] == 12 and one["extra_info"] == {"p90_ms": 1000 * one["stats"]["median"]}
        for one in benchmarks
    )
    assert {one["group"] for one in benchmarks} == {"network, batch 1"}
    assert (tmp_path / "opened").read_text().split() == ["ours", "peer", "absent"]


def test_only_what_was_selected_is_opened(tmp_path: Path) -> None:
    assert run_suite(tmp_path, "--benchmark-only", "-k", "peer").returncode == 0
    assert (tmp_path / "opened").read_text().split() == ["peer"]
    assert run_suite(tmp_path, "--benchmark-disable", "-k", "ours").returncode == 0
    assert (tmp_path / "opened").read_text().split() == ["ours"]
    assert run_suite(tmp_path, "--benchmark-skip").returncode == 0
    assert not (tmp_path / "opened").exists()


def test_an_engine_that_became_slower_is_named(tmp_path: Path) -> None:
    assert run_suite(tmp_path, "--benchmark-only", "--benchmark-autosave").returncode == 0
    same = run_suite(tmp_path, "--benchmark-only", "--benchmark-compare", "--benchmark-compare-fail=median:5%")
    assert same.returncode == 0, same.stdout + same.stderr
    slower = run_suite(
        tmp_path, "--benchmark-only", "--benchmark-compare", "--benchmark-compare-fail=median:5%", ours=2.2
    )
    assert slower.returncode != 0
    (line,) = [line for line in slower.stderr.splitlines() if "PercentageRegressionCheck" in line]
    assert "test_engine[ours]" in line
