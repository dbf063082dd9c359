"""Holds every engine to the trained network in PyTorch fp32: in numbers, on the task, in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from deploy.engines import Runner, pytorch_runner
from deploy.errors import BuildError
from deploy.gate import TASK_TOLERANCE, lost_task, task_changes
from deploy.report import EngineRecord, Report
from deploy.timing import alternating_ms
from deploy.verify import Samples, compare, failures, run_all, task_scores
from model import MultiTaskResFormer

PYTORCH = "PyTorch"


class Judge:
    """Runs the reference on the samples once; then one engine after the other."""

    def __init__(self, model: MultiTaskResFormer, samples: Samples, max_batch: int) -> None:
        self.samples, self.max_batch = samples, max_batch
        self.runners: dict[str, Runner] = {PYTORCH: pytorch_runner(model)}
        self.reference = run_all(self.runners[PYTORCH], samples, max_batch)
        self.reference_scores = task_scores(self.reference, samples)

    def loss(self, runner: Runner) -> float:
        """The largest loss on the task, in units of its tolerance: above 1 it is refused. 0 where there is no truth.

        On all samples, as the gate's own verdict: on 64 images, two labels of 192 already are more than 0.01.
        """
        truth = self.samples.truth
        if truth is None:
            return 0.0
        changes = task_changes(self.reference, run_all(runner, self.samples, self.max_batch), truth)
        return max(-changes[name].value / limit for name, limit in TASK_TOLERANCE.items())

    def verified(self, record: EngineRecord, runner: Runner, worst_layers: Callable[[], list[str]]) -> EngineRecord:
        """The record with what was found; raises BuildError, with the layers that hurt, for an engine that fails."""
        output = run_all(runner, self.samples, self.max_batch)
        parity, truth = compare(self.reference, output), self.samples.truth
        changes = task_changes(self.reference, output, truth) if truth else {}
        broken = failures(record.precision, parity) + (lost_task(changes) if truth else [])
        if broken:
            layers = worst_layers()
            broken += [f"layers that add most error: {', '.join(layers)}"] if layers else []
            raise BuildError(f"{record.name} is refused and deleted: {'; '.join(broken)}")
        self.runners[record.file] = runner
        return replace(record, parity=parity, changes=changes, scores=task_scores(output, self.samples))

    def timed(self, report: Report, load: Callable[[EngineRecord], Runner | None]) -> Report:
        """With the times of all engines that run here, in one alternating run; `load` opens those of the last build."""
        for record in report.engines:
            if record.parity and record.file not in self.runners and (runner := load(record)):
                self.runners[record.file] = runner
        times = alternating_ms(self.runners, self.samples.images[:1])
        records = (replace(record, latency_ms=times.get(record.file)) for record in report.engines)
        return replace(report, engines=tuple(records), reference_ms=times[PYTORCH])
