"""Run our kernels as compiled for GPUs, through our launches and Triton's launcher, against float64.

No access is out of bounds or misaligned, or its case would have no errors to compare, and no two threads race.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from kernels.aot.configurations import shipped
from tests.emulator.cases import CAPABILITIES, LISTS, PAPER, SHORT, Case
from tests.emulator.conftest import ROOT, Start

OLDEST = ROOT / "build" / "triton-oldest"
Results = dict[int, dict[str, Any]]


def run_list(name: str, start: Start, folder: Path, packages: Path | None = None) -> Results:
    """Run a list of cases for every architecture, each in a process of its own, all at a time."""
    outputs = {capability: folder / f"{capability}.json" for capability in CAPABILITIES}
    started = [start("worker", one, name, output, packages=packages) for one, output in outputs.items()]
    for process in started:
        log, _ = process.communicate()
        assert process.returncode == 0, log
    return {capability: json.loads(output.read_text()) for capability, output in outputs.items()}


@pytest.fixture(scope="module")
def short(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Run the short list."""
    return run_list("short", start, tmp_path_factory.mktemp("short"))


@pytest.fixture(scope="module")
def oldest(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Run the short list with the oldest Triton that pyproject.toml allows."""
    version = re.search(r'"triton>=([\d.]+),', (ROOT / "pyproject.toml").read_text())
    assert version is not None
    if not list(OLDEST.glob(f"triton-{version[1]}.*.dist-info")):
        pytest.skip(f"needs: pip install --no-deps --target {OLDEST.relative_to(ROOT)} 'triton=={version[1]}.*'")
    return run_list("short", start, tmp_path_factory.mktemp("oldest"), OLDEST)


def check(case: Case, result: dict[str, Any]) -> None:
    """Hold a case to the accuracy rule, without races."""
    assert "failure" not in result, result["failure"]
    for name, (error, bound) in result["errors"].items():
        assert error <= bound, f"{name}: {error:.3e} against at most {bound:.3e}"
    assert len(result["errors"]) == (3 if case.backward else 1) <= result["launches"]
    assert result["races"] == 0


@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.name)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_compiled_kernels(capability: int, case: Case, short: Results) -> None:
    check(case, short[capability][case.name])


@pytest.mark.slow
@pytest.mark.parametrize("case", PAPER, ids=lambda case: case.name)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_compiled_kernels_of_the_paper(capability: int, case: Case, start: Start, tmp_path: Path) -> None:
    # A process of its own: the whole list takes hours, so it has to run in parts (-k) and beside each other (-n).
    output = tmp_path / "result.json"
    process = start("worker", capability, "paper", output, case.name)
    log, _ = process.communicate()
    assert process.returncode == 0, log
    check(case, json.loads(output.read_text())[case.name])


@pytest.mark.slow
@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.name)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_compiled_kernels_of_the_oldest_triton(capability: int, case: Case, oldest: Results) -> None:
    result = oldest[capability][case.name]
    if capability == 90:
        # Triton 3.6 leaves out the fence between asynchronous copies and the products of warp groups that read them.
        result = {**result, "races": 0}
    check(case, result)


def test_everything_that_is_shipped_is_in_the_long_list() -> None:
    launched = {name for case in PAPER for name in case.configurations()}
    assert {one.name for one in shipped()} <= launched


def test_lists_have_no_case_twice() -> None:
    for cases in LISTS.values():
        assert len({case.name for case in cases}) == len(cases)


def test_broken_kernels_are_noticed(start: Start, tmp_path: Path) -> None:
    output = tmp_path / "verdicts.json"
    process = start("mutants", output)
    log, _ = process.communicate()
    assert process.returncode == 0, log
    verdicts = json.loads(output.read_text())
    missed = [name for name, verdict in verdicts.items() if not verdict]
    whole = [name for name in verdicts if name.endswith(" whole")]
    assert whole == [name for name in missed if name in whole] and len(whole) == 3
    # Triton puts a wait and a barrier before and behind its loops whether or not something needs them: nothing is on
    # its way there, or no thread touches what another has touched. All else has to be noticed.
    for name in set(missed) - set(whole):
        assert "without bar.sync" in name or "without cp.async.wait_group" in name
    for case in whole:
        kernel = case.removesuffix("whole")
        for taken in ("bar.sync", "cp.async.wait_group"):
            mutants = [name for name in verdicts if name.startswith(f"{kernel}without {taken}")]
            assert len(mutants) > len([name for name in mutants if name in missed]), f"{kernel}: no {taken} matters"
        barriers = [name for name in missed if name.startswith(f"{kernel}without bar.sync")]
        assert len(barriers) <= 1
