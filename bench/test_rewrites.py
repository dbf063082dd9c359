"""Measure what each exact rewrite saves in each runtime, in alternating rounds of one run.

Each graph has one rewrite more than the one before, the first has none.

python -m pytest bench/test_rewrites.py -m slow --benchmark-only --checkpoint random:paper-224
"""

import time
from pathlib import Path
from statistics import median

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import OUTPUT
from bench.contenders import noise
from bench.plain_export import plain_export
from deploy.building.plan import contract_of
from deploy.engines import Runner, cpu_runner
from deploy.simplify import REWRITES, simplify
from deploy.verify import compare
from model.checkpoint import load_checkpoint

ROUNDS = 9
RUNTIMES = ("ONNX Runtime", "OpenVINO")


@pytest.mark.slow
def test_rewrites(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> None:
    name, threads = (request.config.getoption(f"--{it}") for it in ("checkpoint", "threads"))
    checkpoint = load_checkpoint(name)
    contract = contract_of(checkpoint.info, 8)
    folder = OUTPUT / "rewrites"
    folder.mkdir(parents=True, exist_ok=True)
    runners: dict[tuple[str, str], Runner] = {}
    for count in range(len(REWRITES) + 1):
        step = f"+ {REWRITES[count - 1].__name__}" if count else "plain export"
        file = plain_export(simplify(checkpoint.build(), REWRITES[:count]), contract, folder / f"{count}.onnx")
        runners[step, RUNTIMES[0]] = cpu_runner(file, "onnxruntime", threads)
        runners[step, RUNTIMES[1]] = cpu_runner(file, "openvino f32", threads)
    # All graphs are open before any is timed: a round must not wait for an export.
    images = noise(contract, 1)
    torch.set_num_threads(threads)
    # Exact rewrites change no mask beyond rounding. What fails here is not worth timing.
    reference = next(iter(runners.values()))(images)
    assert all(compare(reference, runner(images)).mask < 0.001 for runner in runners.values())
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runners}

    def one_round() -> None:
        for key, runner in runners.items():
            start = time.perf_counter()
            runner(images)
            times[key].append(1000 * (time.perf_counter() - start))

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    # The benchmark's own figures are those of a whole round, so every graph's median is kept with them.
    steps = list(dict.fromkeys(step for step, _ in runners))
    benchmark.extra_info.update(checkpoint=Path(name).name, threads=threads)
    benchmark.extra_info["rewrites"] = {
        # The first time is that of the warm-up round.
        step: {runtime: median(times[step, runtime][1:]) for runtime in RUNTIMES}
        for step in steps
    }
