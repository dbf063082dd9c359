"""Checkpoint to verified engines: export, build, verify, and only then publish, all or nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from deploy.contract import Contract
from deploy.engines import ONNX, TARGETS, BuildRequest, Runner, engine_runner, onnx_version
from deploy.errors import BuildError
from deploy.export import export_onnx
from deploy.fingerprint import checkpoint_fingerprint, code_fingerprint, export_tools, file_fingerprint, fingerprint
from deploy.progress import step
from deploy.report import EngineRecord, Report, machine, read_report
from deploy.repository import network_files
from deploy.verify import Samples, compare, failures, latency_ms, pytorch_runner, run_all, task_scores
from model.checkpoint import Checkpoint

CPU_TARGETS = (ONNX, "openvino")


@dataclass(frozen=True)
class BuildOptions:
    """What may be chosen of a build; see `python -m deploy.build_engine --help`."""

    targets: Sequence[str]
    precision: str
    compute_capabilities: Sequence[str] = ()
    threads: int = 2
    data: str | None = None
    samples: int = 64
    plugins: bool = False


@dataclass(frozen=True)
class Wanted:
    """An engine to have. `key` is the fingerprint of all it is made of."""

    target: str
    precision: str
    key: str

    @property
    def file(self) -> str:
        """model.onnx is the fp32 export; everything else carries its precision in its name."""
        if self.target == ONNX:
            return "model.onnx" if self.precision == "fp32" else f"model.{self.precision}.onnx"
        return f"{self.target}.{self.precision}{TARGETS[self.target].suffix}"


class Builder:
    """Builds the engines of one checkpoint into `output`, which exists; what is still current is not built again."""

    def __init__(
        self,
        name: str,
        checkpoint: Checkpoint,
        contract: Contract,
        options: BuildOptions,
        output: Path,
        console: Console,
    ) -> None:
        self.name, self.checkpoint, self.contract, self.options = name, checkpoint, contract, options
        self.output, self.console = output, console
        self.model_key = fingerprint(
            checkpoint=checkpoint_fingerprint(checkpoint),
            code=code_fingerprint(),
            contract=contract.to_json(),
            tools=export_tools(),
            verified_on=[options.data, options.samples],
        )

    def current(self, wanted: Sequence[Wanted]) -> tuple[EngineRecord, ...]:
        """Engines of the last build that still are what they were: same model, same making, same bytes on disk."""
        previous = read_report(self.output)
        if previous is None or previous.model_key != self.model_key:
            return ()
        keys = {item.file: item.key for item in wanted}
        return tuple(
            record
            for record in previous.engines
            if keys.get(record.file, record.key) == record.key
            and (self.output / record.file).is_file()
            and file_fingerprint(self.output / record.file) == record.sha256
        )

    def wanted(self) -> list[Wanted]:
        """The engines asked for, in the order in which they depend on each other: ONNX files first."""
        precision, names = self.options.precision, [name for name in self.options.targets if name != ONNX]
        sources = [precision] if ONNX in self.options.targets else []
        sources += [TARGETS[name].onnx_precision(precision) for name in names]
        exports = [Wanted(ONNX, source, self._key(ONNX, source, onnx_version())) for source in dict.fromkeys(sources)]
        return exports + [
            Wanted(name, precision, self._key(name, precision, TARGETS[name].version())) for name in names
        ]

    def build(self, missing: Sequence[Wanted], kept: Sequence[EngineRecord], samples: Samples) -> Report:
        """Make, verify and publish what is missing; raises BuildError, nothing published, where one engine fails."""
        self.samples, self.model = samples, self.checkpoint.build()
        pytorch = pytorch_runner(self.model)
        with step(self.console, f"PyTorch fp32 on {samples.name}"):
            self.reference = run_all(pytorch, samples, self.contract.max_batch)
            self.reference_scores = task_scores(self.reference, samples)
        with TemporaryDirectory(prefix=".build-", dir=self.output) as scratch:
            made = [self._make(item, Path(scratch)) for item in missing]
            report = Report(
                checkpoint=self.name,
                model_key=self.model_key,
                contract=asdict(self.contract),
                samples=samples.name,
                reference_scores=self.reference_scores,
                reference_ms=latency_ms(pytorch, samples),
                engines=(*(record for record in kept if record.file not in {item.file for item in missing}), *made),
                machine=machine(),
                versions=export_tools(),
            )
            self._publish(report, made, Path(scratch))
        return report

    def _key(self, target: str, precision: str, tool: str) -> str:
        built_for = list(self.options.compute_capabilities) if target not in CPU_TARGETS else []
        plugins = self.options.plugins and target not in CPU_TARGETS
        return fingerprint(
            model=self.model_key, target=target, precision=precision, tool=tool, built_for=built_for, plugins=plugins
        )

    def _make(self, item: Wanted, scratch: Path) -> EngineRecord:
        path = scratch / item.file
        start = time.perf_counter()
        with step(self.console, f"building {item.target} {item.precision}") as progress:
            if item.target == ONNX:
                export_onnx(self.model, self.contract, path, precision=item.precision)
            else:
                TARGETS[item.target].build(self._request(item, scratch), path, progress)
        record = EngineRecord(
            target=item.target,
            precision=item.precision,
            file=item.file,
            bytes=sum(file.stat().st_size for file in network_files(path)),
            build_seconds=time.perf_counter() - start,
            tool=onnx_version() if item.target == ONNX else TARGETS[item.target].version(),
            key=item.key,
            sha256=file_fingerprint(path),
        )
        runner = engine_runner(item.target, item.precision, path, self.options.threads)
        return record if runner is None else self._verify(record, runner)

    def _request(self, item: Wanted, scratch: Path) -> BuildRequest:
        source = Wanted(ONNX, TARGETS[item.target].onnx_precision(item.precision), "").file
        exported = scratch / source if (scratch / source).exists() else self.output / source
        chosen = self.options
        return BuildRequest(
            self.model, exported, self.contract, item.precision, chosen.compute_capabilities, chosen.plugins
        )

    def _verify(self, record: EngineRecord, runner: Runner) -> EngineRecord:
        with step(self.console, f"verifying {record.target} {record.precision}"):
            output = run_all(runner, self.samples, self.contract.max_batch)
            parity, scores = compare(self.reference, output), task_scores(output, self.samples)
            broken = failures(record.precision, parity, scores, self.reference_scores)
            if broken:
                raise BuildError(f"{record.target} {record.precision} is refused and deleted: {'; '.join(broken)}")
            return replace(record, parity=parity, scores=scores, latency_ms=latency_ms(runner, self.samples))

    def _publish(self, report: Report, made: Sequence[EngineRecord], scratch: Path) -> None:
        """Move the files into place, companions first: the named file completes an engine. Drop what is outdated."""
        for record in made:
            for file in reversed(network_files(scratch / record.file)):
                file.replace(self.output / file.name)
        previous = read_report(self.output)
        outdated = {record.file for record in previous.engines} if previous else set()
        for name in outdated - {record.file for record in report.engines}:
            for file in network_files(self.output / name):
                file.unlink(missing_ok=True)
