"""Time engines side by side in alternating rounds of one run, and how their cost grows with batch and image size.

python -m pytest bench/test_engines.py --benchmark-only --checkpoint random:paper-224 -m 'slow or not slow'

Without `-m` the growth with size is left out.
"""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.flop_counter import FlopCounterMode

from bench.conftest import OUTPUT, THREADS
from bench.contenders import COMPILED, EAGER, PLAIN, Contender, Contenders, noise, report_of
from bench.gemm import MULTIPLY_ADDS, best_seconds, products
from bench.plain_export import plain_export
from data_pipeline import Preprocessing
from deploy import build_engine
from deploy.building.plan import contract_of
from deploy.contract import Contract
from deploy.engines import TARGETS, BuildRequest, Runner, cpu_runner, pytorch_runner
from deploy.export import export_onnx
from deploy.verify import compare
from model import PRESETS, build_model
from model.checkpoint import load_checkpoint

ROUNDS = {1: 9, 4: 3}


@pytest.fixture(scope="module")
def contenders(request: pytest.FixtureRequest) -> Contenders:
    """Build our engines that pass the gate here, and the plain export of the same weights."""
    name, threads, precision = (request.config.getoption(f"--{it}") for it in ("checkpoint", "threads", "precision"))
    # Into the folder of the other benchmarks, whose engines are then current and not built again.
    arguments = ["--checkpoint", name, "--output", str(OUTPUT), "--threads", str(threads)]
    assert build_engine.main([*arguments, "--target", "openvino", "--precision", precision]) == 0
    checkpoint = load_checkpoint(name)
    plain_export(checkpoint.build(), contract_of(checkpoint.info, 8), OUTPUT / PLAIN)
    return Contenders(name, OUTPUT, threads)


def contract() -> Contract:
    """Return the contract of the engines that were built."""
    return Contract.from_fields(report_of(OUTPUT).contract)


def multiply_adds(checkpoint: str) -> int:
    """Count the multiply-adds of one image in the network as trained."""
    model = load_checkpoint(checkpoint).build().eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(torch.zeros(1, 3, model.config.image_size, model.config.image_size))
    # The counter counts a multiplication and an addition as two.
    return int(counter.get_total_flops()) // 2


def peak_memory(contenders: Contenders, name: str, batch: int) -> float:
    """Return the peak memory, in MB, of a fresh process that loads one engine and runs it."""
    command = [sys.executable, "-m", "bench.contenders", "--checkpoint", contenders.checkpoint, "--batch", str(batch)]
    command += ["--output", str(contenders.output), "--threads", str(contenders.threads), name]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(finished.stdout.splitlines()[-1])["peak_mb"])


def figures(
    contender: Contender, measured: list[float], work: int, batch: int, rates: dict[str, float]
) -> dict[str, float]:
    """Summarise an engine's times.

    Args:
        contender: the engine.
        measured: seconds of each round, the first of which warmed up.
        work: multiply-adds of the batch in the network as trained.
        batch: images a run.
        rates: multiply-adds a second of a large matrix product in each precision.
    """
    seconds = measured[1:]
    middle = float(np.median(seconds))
    return {
        **{f"p{p}_ms": 1000 * float(np.percentile(seconds, p)) for p in (50, 90, 99)},
        "images_per_second": batch / middle,
        "share_of_gemm_rate": work / middle / rates[contender.precision],
    }


@pytest.mark.parametrize("batch", ROUNDS)
def test_engines(benchmark: BenchmarkFixture, contenders: Contenders, batch: int) -> None:
    images, by_title = noise(contract(), batch), contenders.by_title()
    torch.set_num_threads(contenders.threads)
    runners: dict[str, Runner] = {title: contender.load() for title, contender in by_title.items()}
    reference = runners[EAGER](images)
    times: dict[str, list[float]] = {title: [] for title in runners}
    best = products(contenders.threads)
    gemm: dict[str, list[float]] = {precision: [] for precision in best}

    # The matrix products take turns with the engines, so that both see the same machine.
    def one_round() -> None:
        for precision, product in best.items():
            gemm[precision].append(best_seconds(product))
        for title, runner in runners.items():
            start = time.perf_counter()
            runner(images)
            times[title].append(time.perf_counter() - start)

    benchmark.pedantic(one_round, rounds=ROUNDS[batch], warmup_rounds=1)
    rates = {precision: MULTIPLY_ADDS / float(np.median(measured[1:])) for precision, measured in gemm.items()}
    work = batch * multiply_adds(contenders.checkpoint)
    benchmark.extra_info.update(checkpoint=Path(contenders.checkpoint).name, batch=batch, threads=contenders.threads)
    benchmark.extra_info["gemm_gmacs"] = {precision: rate / 1e9 for precision, rate in rates.items()}
    benchmark.extra_info["engines"] = {
        title: {
            **figures(by_title[title], measured, work, batch, rates),
            # torch.compile's peak would be that of its compiler.
            "peak_mb": peak_memory(contenders, title, batch) if title != COMPILED else None,
            "mask_differs": compare(reference, runners[title](images)).mask,
        }
        for title, measured in times.items()
    }


def test_growth_with_batch(benchmark: BenchmarkFixture, contenders: Contenders) -> None:
    title = "ours, openvino fp32"
    runner, times = contenders.by_title()[title].load(), {}
    for batch in (1, 2, 4, 8):
        images = noise(contract(), batch)
        # Not timed: an engine prepares itself for a shape when it first meets it.
        runner(images)
        start = time.perf_counter()
        for _ in range(3):
            runner(images)
        times[batch] = (time.perf_counter() - start) / 3 * 1000
    benchmark.extra_info.update(engine=title, growth_with_batch=times)
    benchmark.pedantic(runner, args=(noise(contract(), 1),), rounds=5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [128, 256, 512])
def test_growth_with_size(benchmark: BenchmarkFixture, size: int) -> None:
    """Time OpenVINO fp32 with the tiny preset's channels at several image sizes."""
    # The window is a share of the image, as in the paper, so it grows too.
    config = replace(PRESETS["tiny"], image_size=size)
    torch.manual_seed(0)
    model = build_model(config).eval()
    classes = tuple(f"class {index}" for index in range(config.seg_channels))
    preprocessing = Preprocessing(image_size=size)
    spec = Contract(preprocessing=preprocessing, seg_classes=classes, labels=("a", "b", "c"), max_batch=1)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    exported, engine = OUTPUT / f"size-{size}.onnx", OUTPUT / f"size-{size}.xml"
    export_onnx(model, spec, exported)
    target = TARGETS["openvino"]
    request = BuildRequest(model=model, onnx=exported, contract=spec, precision="fp32", threads=THREADS)
    target.build(request, engine, lambda phase, share: None)
    runner = cpu_runner(engine, "openvino f32", THREADS)
    images = noise(spec, 1)
    assert compare(pytorch_runner(model)(images), runner(images)).mask < 0.001
    benchmark.extra_info.update(size=size, exported_mb=exported.stat().st_size / 1e6)
    benchmark.pedantic(runner, args=(images,), rounds=7, warmup_rounds=2)
