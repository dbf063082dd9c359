"""Verify engines against the trained network in PyTorch fp32, one after the other."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.engines import EngineOutput, Runner, pytorch_runner
from deploy.network.onnx_session import open_session
from deploy.verify import Verification, broken_tolerances, compare
from deploy.verify.task_gate import TASK_TOLERANCE, Samples, broken_task_tolerances, score, task_changes
from model import MultiTaskResFormer

BATCH = 3  # images that the reference takes at once
FEW = 4  # images that are enough to see that another form of a verified engine computes the same


class Verifier:
    """Run the reference on the samples once, then compare every engine with its outputs."""

    def __init__(self, model: MultiTaskResFormer, samples: Samples, max_batch: int) -> None:
        """Run the trained network on the samples, and remember how many images an engine takes at once."""
        self.samples, self.max_batch = samples, max_batch
        self.reference_runner = pytorch_runner(model)
        self.reference = self._run(self.reference_runner, in_threes(len(samples.images)))
        self.reference_scores = self._scores(self.reference)

    def check_export(self, file: Path, threads: int) -> list[str]:
        """List the tolerances that an exported fp32 file breaks where every node is computed as the file says."""
        # In one real batch: the engines of a GPU are built from this file, and take batches.
        images = self.samples.images[: min(2, self.max_batch)]
        session = open_session(file, threads, literal=True)
        output = EngineOutput(*session.run(None, {session.get_inputs()[0].name: images}))
        return broken_tolerances("fp32", compare(self.reference.take(slice(len(images))), output))

    def verify(self, runner: Runner, precision: str, *, one_by_one: bool = True) -> Verification:
        """Run an engine on the samples and list which tolerances of its precision it breaks.

        Args:
            runner: the engine, in the form that is served.
            precision: the one that it was built in.
            one_by_one: whether it takes the images of a batch one by one. Of others every size of batch is run.
        """
        count, targets = len(self.samples.images), self.samples.targets
        batches = list(in_threes(count) if one_by_one else every_size(count, self.max_batch))
        output = self._run(runner, batches)
        parity = compare(self.reference.take(np.concatenate(batches)), output)
        # The samples in their order. What comes after them only filled a batch.
        output = output.take(slice(count))
        changes = task_changes(self.reference, output, targets) if targets else {}
        failures = broken_tolerances(precision, parity) + (broken_task_tolerances(changes) if targets else [])
        return Verification(parity=parity, changes=changes, scores=self._scores(output), failures=tuple(failures))

    def check_form(self, runner: Runner, precision: str) -> list[str]:
        """List the tolerances that another form of a verified engine breaks, on a few samples."""
        output = runner(self.samples.images[:FEW])
        return broken_tolerances(precision, compare(self.reference.take(slice(FEW)), output))

    def task_loss(self, runner: Runner) -> float:
        """Return the largest loss on the task in units of its tolerance: above 1 the gate refuses the engine.

        Without targets, or where these define no score, it is 0.
        """
        targets = self.samples.targets
        if targets is None:
            return 0.0
        # On all samples, as the gate decides: on 64 images, two labels of 192 are already more than 0.01.
        output = self._run(runner, in_threes(len(self.samples.images)))
        changes = task_changes(self.reference, output, targets)
        return max(
            (-changes[name].value / TASK_TOLERANCE[name] for name in TASK_TOLERANCE.keys() & changes), default=0.0
        )

    def _run(self, runner: Runner, batches: Iterable[NDArray[np.intp]]) -> EngineOutput:
        """Return an engine's outputs for the samples of each batch, one after the other."""
        parts = [runner(self.samples.images[numbers]) for numbers in batches]
        return EngineOutput(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _scores(self, output: EngineOutput) -> dict[str, float] | None:
        return score(output, self.samples.targets).compute() if self.samples.targets else None


def in_threes(count: int) -> Iterator[NDArray[np.intp]]:
    """Yield the numbers of `count` images in batches of `BATCH`, the last of which may be smaller."""
    for start in range(0, count, BATCH):
        yield np.arange(start, min(start + BATCH, count))


def every_size(count: int, max_batch: int) -> Iterator[NDArray[np.intp]]:
    """Yield numbers of `count` images in batches of 1, 2, ... `max_batch`, 1, 2, ... images.

    It ends once every image and every size was taken. Where there are too few images, they come again.
    """
    # A row may depend on its place or on its neighbours in one size only (NVIDIA/TensorRT#4813).
    start = 0
    for number in itertools.count():
        if start >= count and number >= max_batch:
            return
        size = number % max_batch + 1
        yield np.arange(start, start + size) % count
        start += size
