"""Verify engines, one after the other, against the trained network in PyTorch fp32."""

import numpy as np

from deploy.engines import EngineOutput, Runner, pytorch_runner
from deploy.verify import Verification
from deploy.verify.parity import broken_tolerances, compare
from deploy.verify.samples import Samples
from deploy.verify.task_gate import TASK_TOLERANCE, lost_task, score, task_changes
from model import MultiTaskResFormer

BATCH = 3  # does not divide 4, 8 or 200: the last batch is a smaller one, so that dynamic batches are tested too


class Verifier:
    """Run the reference on the samples once, then hold every engine to its outputs."""

    def __init__(self, model: MultiTaskResFormer, samples: Samples, max_batch: int) -> None:
        """model: the trained network. max_batch: the most images that an engine takes at once."""
        self.samples, self.max_batch = samples, max_batch
        self.reference_runner = pytorch_runner(model)
        self.reference = run_all(self.reference_runner, samples, max_batch)
        self.reference_scores = self._scores(self.reference)

    def verify(self, runner: Runner, precision: str) -> Verification:
        """Run an engine on the samples and say what it gives and which tolerances of its precision it breaks."""
        output, targets = run_all(runner, self.samples, self.max_batch), self.samples.targets
        parity = compare(self.reference, output)
        changes = task_changes(self.reference, output, targets) if targets else {}
        broken = broken_tolerances(precision, parity) + (lost_task(changes) if targets else [])
        return Verification(parity=parity, changes=changes, scores=self._scores(output), failures=tuple(broken))

    def task_loss(self, runner: Runner) -> float:
        """Return the largest loss on the task in units of its tolerance, above 1 for a refusal; 0 without targets.

        Taken on all samples, as the verdict is: on 64 images, two labels of 192 already are more than 0.01.
        """
        targets = self.samples.targets
        if targets is None:
            return 0.0
        changes = task_changes(self.reference, run_all(runner, self.samples, self.max_batch), targets)
        return max(-changes[name].value / limit for name, limit in TASK_TOLERANCE.items())

    def _scores(self, output: EngineOutput) -> dict[str, float] | None:
        return score(output, self.samples.targets).compute() if self.samples.targets else None


def run_all(runner: Runner, samples: Samples, max_batch: int) -> EngineOutput:
    """Return the outputs for all samples, taken in batches of 3 (or `max_batch`) and a smaller last one."""
    size = min(BATCH, max_batch)
    parts = [runner(samples.images[start : start + size]) for start in range(0, len(samples.images), size)]
    return EngineOutput(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
