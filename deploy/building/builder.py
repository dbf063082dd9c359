"""Build what is missing: make each engine, verify it, time all of them, and describe the result."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from data_pipeline import Split
from deploy.building.cache import BuildState, export_tools, tool
from deploy.building.plan import AUTO, CALIBRATION, EngineSpec, left_out
from deploy.content import network_files, network_fingerprint
from deploy.engines import (
    ONNX,
    QUANTIZED,
    TARGETS,
    BuildRequest,
    Progress,
    Runner,
    cpu_runner,
    engine_runner,
    execution,
)
from deploy.errors import BuildError
from deploy.export import check_onnx, export_onnx
from deploy.precision import lower_precision
from deploy.precision.layer_errors import INSPECTED, worst_layers
from deploy.report import EngineRecord, Report, machine
from deploy.traced_graph import GraphCache
from deploy.verify import Verification
from deploy.verify.task_gate import Samples, load_samples
from deploy.verify.turns import Rounds, take_turns, timed
from deploy.verify.verifier import Verifier

PYTORCH = "PyTorch"
# Of earlier builds, whatever became of them: what each target has measured, and what PyTorch traced.
TIMING_CACHE, GRAPH_CACHE = ".timing_cache", "export.graph_cache"
# Slow engines vary less in proportion to their own time, so a median of three rounds is enough for them.
ROUNDS = Rounds(most=10, fewest=3, seconds=10, warm_up=1)


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """Hold a finished build that is not published yet.

    state: what was asked for, and what the last build left of it.
    report: everything that will be in the output folder, without its files.
    made: records of the engines made this time, refused ones included.
    scratch: the folder that their files are in.
    samples: the images that they were verified on.
    runners: every engine that runs here, opened, by file, and the reference by `PYTORCH`.
    """

    state: BuildState
    report: Report
    made: tuple[EngineRecord, ...]
    scratch: Path
    samples: Samples
    runners: dict[str, Runner]


def build(state: BuildState, scratch: Path, console: Console) -> BuildResult:
    """Make and verify every missing engine in `scratch`, and time them with the current ones.

    Raises BuildError where an engine fails. Only "auto" goes on without it.
    """
    builder = Builder(state, scratch, console)
    made = tuple(builder.add(spec) for spec in state.missing)
    with step(console, "timing the engines in turn"):
        report = builder.timed_report()
    return BuildResult(
        state=state,
        report=report,
        made=made,
        scratch=scratch,
        samples=builder.samples,
        runners=builder.runners,
    )


class Builder:
    """Make engines one after the other, each from the files of earlier ones, and verify each against one reference."""

    def __init__(self, state: BuildState, scratch: Path, console: Console) -> None:
        """Load the samples and run the reference, the trained network in PyTorch, on them."""
        self.state, self.job, self.options = state, state.job, state.job.options
        self.scratch, self.console = scratch, console
        self.samples = self._load("validation", self.options.samples)
        self.model = self.job.checkpoint.build()
        with step(console, f"PyTorch fp32 on {self.samples.name}"):
            self.verifier = Verifier(self.model, self.samples, self.job.contract.max_batch)
        # By file: what the last build left, and then each engine as it is made.
        self.records = {record.file: record for record in state.current}
        self.runners: dict[str, Runner] = {PYTORCH: self.verifier.reference_runner}

    def add(self, spec: EngineSpec) -> EngineRecord:
        """Make and verify one engine, or under "auto" record why it is missing."""
        source = self.records.get(spec.source.file) if spec.source else None
        if source and source.refused:
            record = replace(self._record(spec), refused=f"{source.name}, which it is made from, is refused")
        else:
            try:
                record = self._make(spec)
            except BuildError as error:
                # fp32 is exact up to rounding: where even that fails, something is wrong with the build itself.
                if self.options.precision != AUTO or spec.precision == "fp32":
                    raise
                for file in network_files(self.scratch / spec.file):
                    file.unlink(missing_ok=True)
                # One that was opened stays open, to be timed: whether it would have been faster is worth knowing.
                record = replace(self._record(spec), refused=str(error))
        self.records[spec.file] = record
        return record

    def timed_report(self) -> Report:
        """Time all engines that run here in one run of alternating rounds, and describe the whole output."""
        for record in self.records.values():
            # What the last build left is opened only now, to be timed with what is new.
            if record.parity and record.file not in self.runners and (runner := self._reopen(record)):
                self.runners[record.file] = runner
        image = self.samples.images[:1]
        operations = {file: timed(partial(runner, image)) for file, runner in self.runners.items()}
        taken = take_turns(operations, ROUNDS, lambda text: self.console.print(f"timing: {text}"))
        times = {file: 1000 * median(seconds) for file, seconds in taken.items()}
        # An engine that an earlier build refused is gone. Its time was taken beside others than these.
        engines = (replace(record, latency_ms=times.get(record.file)) for record in self.records.values())
        return Report(
            checkpoint=self.job.name,
            model_key=self.state.model_key,
            contract=self.job.contract.to_fields(),
            samples=self.samples.name,
            reference_scores=self.verifier.reference_scores,
            reference_ms=times[PYTORCH],
            engines=tuple(engines),
            machine=machine(),
            versions=export_tools(),
            left_out=left_out(self.options),
        )

    def _make(self, spec: EngineSpec) -> EngineRecord:
        """Write, open and verify one engine, or raise BuildError."""
        path, start = self.scratch / spec.file, time.perf_counter()
        with step(self.console, f"building {spec.name}") as progress:
            self._write(spec, path, progress)
        record = replace(
            self._record(spec),
            build_seconds=time.perf_counter() - start,
            bytes=sum(file.stat().st_size for file in network_files(path)),
            sha256=network_fingerprint(path),
        )
        runner = self._open(spec.target, spec.precision, path)
        # Built for another machine: its ONNX file, made before it, is what could be verified here.
        if runner is None:
            return record
        self.runners[spec.file] = runner
        with step(self.console, f"verifying {spec.name}"):
            verification = self._verify(spec, path, runner)
        self._refuse_failures(spec, verification)
        return replace(record, parity=verification.parity, scores=verification.scores, changes=verification.changes)

    def _verify(self, spec: EngineSpec, path: Path, runner: Runner) -> Verification:
        """Verify an engine in every form that is served."""
        computed = execution(spec.target, spec.precision)
        verification = self.verifier.verify(runner, spec.precision, one_by_one=computed is not None)
        # A server that is tuned for throughput gives each of its workers one thread.
        if computed and self.options.threads > 1 and not verification.failures:
            single = self.verifier.check_form(cpu_runner(path, computed, 1), spec.precision)
            failures = tuple(f"with one thread {failure}" for failure in single)
            verification = replace(verification, failures=failures)
        return verification

    def _write(self, spec: EngineSpec, path: Path, progress: Progress) -> None:
        """Write an engine from its ONNX file, or an ONNX file from the network or from the float32 file."""
        if spec.target != ONNX:
            TARGETS[spec.target].build(self._request(spec), path, progress)
        elif spec.source is None:
            self._export(path)
        else:
            float32 = onnx.load(self._find(spec.source))
            lowered = lower_precision(
                float32,
                spec.precision,
                task_loss=self.verifier.task_loss,
                calibration=self._calibration,
                threads=self.options.threads,
                progress=progress,
            )
            onnx.save(lowered, path)
            check_onnx(path, self.job.contract)

    def _export(self, path: Path) -> None:
        """Write the float32 ONNX file, or raise BuildError where it is not the network any more."""
        cache = GraphCache(self.job.output / GRAPH_CACHE, self.state.structure_key)
        export_onnx(self.model, self.job.contract, path, cache=cache)
        if failures := self.verifier.check_export(path, self.options.threads):
            made_by = ", ".join(f"{name} {version}" for name, version in export_tools().items())
            raise BuildError(
                f"the export differs from the PyTorch network before any engine is built from it: "
                f"{'; '.join(failures)}. This is a fault of the exporter ({made_by}) or of deploy.simplify: report it"
            )

    def _request(self, spec: EngineSpec) -> BuildRequest:
        assert spec.source is not None
        return BuildRequest(
            precision=spec.precision,
            gpu=self.options.gpu,
            model=self.model,
            onnx=self._find(spec.source),
            contract=self.job.contract,
            threads=self.options.threads,
            # In the output and not in the scratch folder: it stays when the build fails.
            timing_cache=self.job.output / f"{spec.target}{TIMING_CACHE}",
        )

    def _find(self, spec: EngineSpec) -> Path:
        """Locate a file that was made this time, or that the last build left."""
        made = self.scratch / spec.file
        return made if made.exists() else self.job.output / spec.file

    def _calibration(self) -> NDArray[np.float32]:
        """Load the images that quantised engines take their ranges from."""
        # Training images, because the result is verified on the validation images.
        return self._load("train", CALIBRATION).images

    def _load(self, split: Split, count: int) -> Samples:
        info, source = self.job.checkpoint.info, self.options.data
        return load_samples(self.job.contract, info, source, split, count, self.console.print)

    def _open(self, target: str, precision: str, path: Path) -> Runner | None:
        return engine_runner(target, precision, path, self.options.threads)

    def _reopen(self, record: EngineRecord) -> Runner | None:
        """Open an engine of the last build, or return None where it is for another GPU than this machine's."""
        try:
            return self._open(record.target, record.precision, self.job.output / record.file)
        except BuildError:
            # The key knows the GPU. That of another one is kept for its machine, without a time beside those of this.
            if record.key == self.state.keys[record.file]:
                raise
            return None

    def _refuse_failures(self, spec: EngineSpec, verification: Verification) -> None:
        """Raise BuildError for an engine that breaks a tolerance, with the layers that add most error."""
        if not verification.failures:
            return
        broken = list(verification.failures)
        # Only a lowered ONNX file can be compared with the float32 one layer by layer.
        if spec.target == ONNX and spec.precision in ("fp16", *QUANTIZED):
            exact, candidate = onnx.load(self._find(EngineSpec(ONNX, "fp32"))), onnx.load(self.scratch / spec.file)
            layers = worst_layers(exact, candidate, self.samples.images[:INSPECTED])
            broken.append(f"layers that add most error: {', '.join(layers)}")
        raise BuildError(f"{spec.name} is refused and deleted: {'; '.join(broken)}")

    def _record(self, spec: EngineSpec) -> EngineRecord:
        """Describe an engine before there is anything to say about its file."""
        return EngineRecord(
            target=spec.target,
            precision=spec.precision,
            file=spec.file,
            tool=tool(spec),
            key=self.state.keys[spec.file],
        )


@contextmanager
def step(console: Console, name: str) -> Iterator[Progress]:
    """Show `name` with the time it takes, and leave one line when the block ends.

    Yields a callable for the phase under way and the share of it that is done.
    """
    start = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[phase]}"), TimeElapsedColumn())
    # In a log file the bar would be a line for every refresh.
    with ProgressBar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        # No total: the bar only pulses until a phase reports a share.
        task = bar.add_task(name, total=None, phase="")

        def report(phase: str, share: float) -> None:
            bar.update(task, total=1.0, completed=share, phase=phase)

        yield report
    console.print(f"{name}: {time.perf_counter() - start:.1f} s", highlight=False)
