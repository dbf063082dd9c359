"""Time engines side by side, and how their cost grows with batch and image size.

python -m pytest bench/test_engines.py --benchmark-only --checkpoint random:paper-224 -m 'slow or not slow'

Without `-m` the growth with size is left out.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache, partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import OUTPUT
from bench.conftest import THREADS, Subject
from bench.contenders import COMPILED, CONTENDERS, Contenders, Inference, noise
from bench.gemm import MULTIPLY_ADDS, PRECISIONS, product
from bench.turns import Turn
from data_pipeline import Preprocessing
from deploy.contract import Contract
from deploy.engines import TARGETS, BuildRequest, cpu_runner, pytorch_runner
from deploy.export import export_onnx
from deploy.verify import compare
from deploy.verify.turns import Say
from model import PRESETS, build_model
from model.checkpoint import load_checkpoint

GROWING = "ours-openvino-fp32"
BATCHES = {f"batch-{batch}": batch for batch in (1, 2, 4, 8)}
SIZES = {f"{size}-px": size for size in (128, 256, 512)}


@cache
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


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("batch", [1, 4])
def test_network(turn: Turn, subject: Subject, contenders: Contenders, batch: int, contender: str, say: Say) -> None:
    openers = {name: partial(contenders.inference, name, batch) for name in CONTENDERS}
    inference = turn.measure(f"network, batch {batch}", openers)
    turn.benchmark.extra_info.update(
        engine=contender,
        checkpoint=subject.name,
        batch=batch,
        threads=subject.threads,
        multiply_adds=batch * multiply_adds(contenders.checkpoint),
        mask_differs=inference.parity.mask,
        probabilities_differ=inference.parity.segmentation,
    )
    # torch.compile's peak would be that of its compiler.
    if turn.benchmark.enabled and contender != COMPILED:
        say(f"network, batch {batch}: memory of {contender}, in a fresh process")
        turn.benchmark.extra_info["peak_mb"] = peak_memory(contenders, contender, batch)


@pytest.mark.parametrize("contender", PRECISIONS)
def test_matrix_product(turn: Turn, subject: Subject, contender: str) -> None:
    """Time what the machine does at best, which the engines' rates are a share of."""
    turn.measure("matrix product", {name: partial(product, name, subject.threads) for name in PRECISIONS})
    turn.benchmark.extra_info.update(precision=contender, gemm_multiply_adds=MULTIPLY_ADDS)


@pytest.mark.parametrize("contender", BATCHES)
def test_growth_with_batch(turn: Turn, contenders: Contenders, contender: str) -> None:
    openers = {name: partial(contenders.inference, GROWING, batch) for name, batch in BATCHES.items()}
    turn.measure(f"growth with batch, {GROWING}", openers)
    turn.benchmark.extra_info.update(grows_with="batch", length=BATCHES[contender])


@dataclass(frozen=True)
class Sized:
    """Time a network of one image size, and hold the megabytes of its ONNX file."""

    inference: Inference
    exported_mb: float

    def __call__(self) -> float:
        return self.inference()


def network_of_size(size: int) -> Sized:
    """Build OpenVINO fp32 with the tiny preset's channels for one image size."""
    # The window is a share of the image, as in the paper, so it grows too.
    config = replace(PRESETS["tiny"], image_size=size)
    torch.manual_seed(0)
    model = build_model(config).eval()
    classes = tuple(f"class {index}" for index in range(config.seg_channels))
    preprocessing = Preprocessing(image_size=size)
    spec = Contract(preprocessing=preprocessing, seg_classes=classes, labels=("a", "b", "c"), max_batch=1)
    exported, engine = OUTPUT / f"size-{size}.onnx", OUTPUT / f"size-{size}.xml"
    export_onnx(model, spec, exported)
    target = TARGETS["openvino"]
    request = BuildRequest(model=model, onnx=exported, contract=spec, precision="fp32", threads=THREADS)
    target.build(request, engine, lambda phase, share: None)
    runner = cpu_runner(engine, "openvino f32", THREADS)
    images = noise(spec, 1)
    parity = compare(pytorch_runner(model)(images), runner(images))
    assert parity.mask < 0.001
    return Sized(Inference(runner, images, parity), exported.stat().st_size / 1e6)


@pytest.mark.slow
@pytest.mark.usefixtures("subject")
@pytest.mark.parametrize("contender", SIZES)
def test_growth_with_size(turn: Turn, contender: str) -> None:
    openers = {name: partial(network_of_size, size) for name, size in SIZES.items()}
    sized = turn.measure("growth with size, tiny openvino fp32", openers)
    turn.benchmark.extra_info.update(
        grows_with="image side, px", length=SIZES[contender], exported_mb=sized.exported_mb
    )
