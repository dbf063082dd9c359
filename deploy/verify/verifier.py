"""Verify engines against the trained network in PyTorch fp32, one after the other, and time them in turn."""

import time
from collections.abc import Mapping
from statistics import median

import numpy as np
from numpy.typing import NDArray

from deploy.engines import EngineOutput, Runner, pytorch_runner
from deploy.verify import Verification, broken_tolerances, compare
from deploy.verify.task_gate import TASK_TOLERANCE, Samples, broken_task_tolerances, score, task_changes
from model import MultiTaskResFormer

# Divides neither 4, 8 nor 200: the last batch is a smaller one, so that dynamic batches are tested too.
BATCH = 3
ROUNDS = 10
# Slow engines vary less in proportion to their own time, so a median of three rounds is enough for them.
FEWEST_ROUNDS, SECONDS = 3, 10.0


class Verifier:
    """Run the reference on the samples once, then compare every engine with its outputs."""

    def __init__(self, model: MultiTaskResFormer, samples: Samples, max_batch: int) -> None:
        """Run the trained network on the samples, and remember how many images an engine takes at once."""
        self.samples, self.max_batch = samples, max_batch
        self.reference_runner = pytorch_runner(model)
        self.reference = self._run(self.reference_runner)
        self.reference_scores = self._scores(self.reference)

    def verify(self, runner: Runner, precision: str) -> Verification:
        """Run an engine on the samples and list which tolerances of its precision it breaks."""
        output, targets = self._run(runner), self.samples.targets
        parity = compare(self.reference, output)
        changes = task_changes(self.reference, output, targets) if targets else {}
        failures = broken_tolerances(precision, parity) + (broken_task_tolerances(changes) if targets else [])
        return Verification(parity=parity, changes=changes, scores=self._scores(output), failures=tuple(failures))

    def task_loss(self, runner: Runner) -> float:
        """Return the largest loss on the task in units of its tolerance: above 1 the gate refuses the engine.

        Without targets it is 0.
        """
        targets = self.samples.targets
        if targets is None:
            return 0.0
        # On all samples, as the gate decides: on 64 images, two labels of 192 are already more than 0.01.
        changes = task_changes(self.reference, self._run(runner), targets)
        return max(-changes[name].value / limit for name, limit in TASK_TOLERANCE.items())

    def _run(self, runner: Runner) -> EngineOutput:
        """Return an engine's outputs for all samples, taken in batches."""
        images, size = self.samples.images, min(BATCH, self.max_batch)
        parts = [runner(images[start : start + size]) for start in range(0, len(images), size)]
        return EngineOutput(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _scores(self, output: EngineOutput) -> dict[str, float] | None:
        return score(output, self.samples.targets).compute() if self.samples.targets else None


def alternating_ms(runners: Mapping[str, Runner], image: NDArray[np.float32]) -> dict[str, float]:
    """Measure the median milliseconds of each runner for `image` (B, 3, S, S).

    Every round calls each runner once. There are `ROUNDS` of them, or as many as begin within `SECONDS`, but at least
    `FEWEST_ROUNDS`.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    begun = time.perf_counter()
    # One more than `ROUNDS`, because the first only warms up.
    for number in range(ROUNDS + 1):
        if number > FEWEST_ROUNDS and time.perf_counter() - begun > SECONDS:
            break
        for name, runner in runners.items():
            start = time.perf_counter()
            runner(image)
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: median(measured[1:]) for name, measured in times.items()}
