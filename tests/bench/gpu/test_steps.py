"""Run every step's code without a GPU, in a process that has only torch, triton and NumPy."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from typing import Any

import pytest
import torch

from bench.gpu.gpu_tests import KERNELS
from bench.gpu.machine import NEEDS, PROBE_SECONDS
from bench.gpu.steps import BARE, STEPS
from bench.gpu.worker import function_of
from tests.bench.gpu import tiny
from tests.helpers.imports import ROOT

NINE_MINUTES = 540
# What PyTorch has no code for on a CPU.
GPU_ALONE = ("SDPA, memory-efficient", "SDPA, cuDNN")
Rows = dict[str, list[dict[str, Any]]]


def rows(implementation: str) -> Rows:
    """Run all tiny forms in one process that refuses to import anything else."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.bench.gpu.tiny", implementation]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found: Rows = defaultdict(list)
    for line in ended.stdout.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            found[row.pop("step")].append(row)
    return found


@pytest.mark.parametrize(
    "implementation",
    [
        "reference",
        # In a network. Alone, the kernels run in the interpreter in either case.
        pytest.param("triton", marks=pytest.mark.slow),
    ],
)
def test_every_bare_step_needs_nothing_but_torch_and_triton_and_is_right(implementation: str) -> None:
    found = rows(implementation)
    assert tuple(found) == tiny.STEPS
    for row in (row for step in tiny.STEPS for row in found[step]):
        if row["contender"] in GPU_ALONE:
            assert row["state"] == "failed" and "No viable backend" in row["reason"]
            continue
        assert row["state"] == "measured", row
        assert 0 < row["of_eager"] <= 2
        assert (row["median_us"], row["low_us"], row["high_us"], row["rounds"]) == (2.0, 1.0, 3.0, 3)
    names = [row["contender"] for row in found["networks:launched"]]
    assert names == ["ours", "ours, CUDA graph", "eager", "eager, CUDA graph"]


def test_every_bare_step_has_a_tiny_form() -> None:
    bare = {step.work.removeprefix("bench.gpu.") for step in STEPS if set(step.needs) <= set(BARE)}
    assert bare == set(tiny.STEPS)


def test_the_steps_that_need_only_torch_and_triton_fit_into_nine_minutes() -> None:
    first = [step.name for step in STEPS].index("decoding")
    assert all(set(step.needs) <= {*BARE, "pytest"} for step in STEPS[:first])
    assert PROBE_SECONDS + sum(step.seconds for step in STEPS[:first]) <= NINE_MINUTES


def test_every_step_has_its_function_and_known_needs() -> None:
    for step in STEPS:
        assert callable(function_of(step.work))
        assert set(step.needs) <= NEEDS.keys()
    assert len({step.name for step in STEPS}) == len(STEPS)


def test_the_kernels_own_gpu_tests_are_all_named() -> None:
    marked = [file for file in (ROOT / "tests" / "kernels").glob("*.py") if "pytest.mark.gpu" in file.read_text()]
    assert sorted(str(file.relative_to(ROOT)) for file in marked) == sorted(KERNELS)


# The compiler's first half alone, which needs no GPU: what it cannot trace whole fails here and not on the day.
@pytest.mark.parametrize(
    "step",
    [
        "attention:compiled",
        "dilated:compiled",
        pytest.param("networks:compiled", marks=pytest.mark.slow),
        pytest.param("training:compiled", marks=pytest.mark.slow),
    ],
)
def test_what_is_compiled_is_traced_whole(step: str) -> None:
    def traced(function: Any, mode: str | None = None) -> Any:
        torch.compiler.reset()
        return torch.compile(function, dynamic=False, fullgraph=True, backend="aot_eager")

    for row in tiny.run(step, compile=traced, timer=tiny.do_nothing):
        assert row.state == "measured", row
        assert re.search("compile|FlexAttention", row.contender)
