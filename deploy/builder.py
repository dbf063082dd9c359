"""Checkpoint to verified engines: export, build, verify, and only then publish, all or nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from rich.console import Console

from deploy.engines import ONNX, TARGETS, BuildRequest, Runner, engine_runner
from deploy.errors import BuildError
from deploy.export import check_onnx, export_onnx
from deploy.fingerprint import export_tools
from deploy.job import Job, tool
from deploy.judge import Judge
from deploy.layer_errors import worst_layers
from deploy.onnx_precision import derive
from deploy.plan import AUTO, Engine, left_out
from deploy.progress import step
from deploy.quantize import QUANTIZED
from deploy.report import EngineRecord, Report, machine, read_report
from deploy.repository import network_files, network_fingerprint
from deploy.verify import Samples, load_samples

TIMING_CACHE = "tensorrt.timing_cache"
INSPECTED = 4  # images that a refused engine's layers are compared on
CALIBRATION = 64  # training images that int8 and fp8 take their ranges from


class Builder:
    """Builds the engines of one checkpoint into `output`, which exists; what is still current is not built again."""

    def __init__(self, job: Job, samples: Samples, console: Console) -> None:
        self.job, self.samples, self.console = job, samples, console
        self.options, self.output = job.options, job.output

    def build(self, missing: Sequence[Engine], kept: Sequence[EngineRecord]) -> Report:
        """Make, verify and publish what is missing.

        Raises BuildError, nothing published, where one engine fails; only "auto" goes on without it.
        """
        self.model = self.job.checkpoint.build()
        with step(self.console, f"PyTorch fp32 on {self.samples.name}"):
            self.judge = Judge(self.model, self.samples, self.job.contract.max_batch)
        self.records = {record.file: record for record in kept if record.file not in {item.file for item in missing}}
        with TemporaryDirectory(prefix=".build-", dir=self.output) as scratch:
            for engine in missing:
                self.records[engine.file] = self._make_or_refuse(engine, Path(scratch))
            report = self._report()
            with step(self.console, "timing the engines in turn"):
                report = self.judge.timed(report, lambda record: self._runner(record, self.output / record.file))
            self._publish(report, [self.records[engine.file] for engine in missing], Path(scratch))
        return report

    def _report(self) -> Report:
        """Of everything made and kept, not yet timed."""
        return Report(
            checkpoint=self.job.name,
            model_key=self.job.model_key,
            contract=asdict(self.job.contract),
            samples=self.samples.name,
            reference_scores=self.judge.reference_scores,
            reference_ms=0.0,
            engines=tuple(self.records.values()),
            machine=machine(),
            versions=export_tools(),
            left_out=left_out(self.options),
        )

    def _make_or_refuse(self, engine: Engine, scratch: Path) -> EngineRecord:
        """The engine's record; under "auto" one that says why there is no engine."""
        source = self.records.get(engine.source.file) if engine.source else None
        blank = EngineRecord(
            engine.target, engine.precision, engine.file, 0, 0.0, tool(engine), self.job.key(engine), ""
        )
        if source and source.refused:
            return replace(blank, refused=f"{source.name}, which it is made from, is refused")
        try:
            return self._make(engine, scratch)
        except BuildError as error:
            if self.options.precision != AUTO or engine.precision == "fp32":
                raise
            for file in network_files(scratch / engine.file):
                file.unlink(missing_ok=True)
            return replace(blank, refused=str(error))

    def _make(self, engine: Engine, scratch: Path) -> EngineRecord:
        path = scratch / engine.file
        start = time.perf_counter()
        with step(self.console, f"building {engine.name}") as progress:
            if engine.target != ONNX:
                TARGETS[engine.target].build(self._request(engine, scratch), path, progress)
            elif engine.source is None:
                export_onnx(self.model, self.job.contract, path)
            else:
                float32 = onnx.load(self._file(engine.source, scratch))
                threads, loss = self.options.threads, self.judge.loss
                lowered = derive(float32, engine.precision, loss, self._calibration, threads, progress)
                onnx.save(lowered, path)
                check_onnx(path, self.job.contract)
        record = EngineRecord(
            target=engine.target,
            precision=engine.precision,
            file=engine.file,
            bytes=sum(file.stat().st_size for file in network_files(path)),
            build_seconds=time.perf_counter() - start,
            tool=tool(engine),
            key=self.job.key(engine),
            sha256=network_fingerprint(path),
        )
        if (runner := self._runner(record, path)) is None:
            return record
        with step(self.console, f"verifying {record.name}"):
            return self.judge.verified(record, runner, lambda: self._worst_layers(engine, scratch))

    def _runner(self, record: EngineRecord, path: Path) -> Runner | None:
        return engine_runner(record.target, record.precision, path, self.options.threads)

    def _worst_layers(self, engine: Engine, scratch: Path) -> list[str]:
        """Of a lowered ONNX file that ONNX Runtime can run; empty for other engines."""
        if engine.target != ONNX or engine.precision not in ("fp16", *QUANTIZED):
            return []
        exact = onnx.load(self._file(Engine(ONNX, "fp32"), scratch))
        return worst_layers(exact, onnx.load(scratch / engine.file), self.judge.samples.images[:INSPECTED])

    def _calibration(self) -> Samples:
        """Training images for int8 and fp8: validation images judge it."""
        return load_samples(self.job.contract, self.options.data, CALIBRATION, "train")

    def _request(self, engine: Engine, scratch: Path) -> BuildRequest:
        assert engine.source is not None
        return BuildRequest(
            self.model,
            self._file(engine.source, scratch),
            self.job.contract,
            engine.precision,
            self.options.gpu,
            self.options.threads,
            self.output / TIMING_CACHE,
        )

    def _file(self, engine: Engine, scratch: Path) -> Path:
        """Where it is now: just made, or of the last build."""
        return scratch / engine.file if (scratch / engine.file).exists() else self.output / engine.file

    def _publish(self, report: Report, made: Sequence[EngineRecord], scratch: Path) -> None:
        """Move the files into place, companions first: the named file completes an engine. Drop what is outdated."""
        for record in made:
            if not record.refused:
                for file in reversed(network_files(scratch / record.file)):
                    file.replace(self.output / file.name)
        previous = read_report(self.output)
        outdated = {record.file for record in previous.engines} if previous else set()
        for name in outdated - {record.file for record in report.engines if not record.refused}:
            for file in network_files(self.output / name):
                file.unlink(missing_ok=True)
