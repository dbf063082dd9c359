"""Measure what each exact rewrite saves in each runtime.

Each graph has one rewrite more than the one before, the first has none.

python -m pytest bench/test_rewrites.py -m slow --benchmark-only --checkpoint random:paper-224
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest

from bench import OUTPUT
from bench.conftest import Subject
from bench.contenders import FEW, Inference, noise
from bench.plain_export import plain_export
from bench.turns import Turn
from deploy.engines import EngineOutput, cpu_runner, pytorch_runner
from deploy.simplify import REWRITES, simplify
from deploy.verify import compare

RUNTIMES = {"openvino": "openvino f32", "onnxruntime": "onnxruntime"}
# Numbered, because what a step measures is the rewrites up to its own.
STEPS = ("0-plain", *(f"{number}-{rewrite.__name__}" for number, rewrite in enumerate(REWRITES, 1)))


@pytest.fixture(scope="module")
def graph(subject: Subject) -> Callable[[str], Path]:
    """Return what exports the network with the rewrites up to a step, once for both runtimes."""
    folder = OUTPUT / "rewrites"
    folder.mkdir(parents=True, exist_ok=True)

    @cache
    def export(step: str) -> Path:
        model = simplify(subject.checkpoint.build(), REWRITES[: STEPS.index(step)])
        return plain_export(model, subject.contract, folder / f"{step}.onnx")

    return export


@pytest.fixture(scope="module")
def reference(subject: Subject) -> EngineOutput:
    return pytorch_runner(subject.checkpoint.build())(noise(subject.contract, 1))


@pytest.mark.slow
@pytest.mark.parametrize("contender", STEPS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_rewrites(
    turn: Turn,
    subject: Subject,
    graph: Callable[[str], Path],
    reference: EngineOutput,
    runtime: str,
    contender: str,
) -> None:
    images = noise(subject.contract, 1)

    def opened(step: str) -> Inference:
        runner = cpu_runner(graph(step), RUNTIMES[runtime], subject.threads)
        # Exact rewrites change no mask beyond rounding. What fails here is not worth timing.
        parity = compare(reference, runner(images))
        assert parity.mask < FEW, f"{step}: {parity.mask:.2%} of the mask's pixels are wrong"
        return Inference(runner, images, parity)

    turn.measure(f"rewrites, {runtime}", {step: partial(opened, step) for step in STEPS})
    turn.benchmark.extra_info.update(step=contender, runtime=runtime, checkpoint=subject.name, threads=subject.threads)
