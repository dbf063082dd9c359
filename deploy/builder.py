"""Checkpoint to verified engines: export, build, verify, and only then publish, all or nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from rich.console import Console

from deploy.contract import Contract
from deploy.engines import ONNX, TARGETS, BuildRequest, Runner, engine_runner, onnx_version
from deploy.errors import BuildError
from deploy.export import check_onnx, export_onnx
from deploy.fingerprint import checkpoint_fingerprint, code_fingerprint, export_tools, fingerprint
from deploy.judge import Judge
from deploy.layer_errors import worst_layers
from deploy.onnx_precision import derive
from deploy.plan import AUTO, BuildOptions, Engine, engines, left_out
from deploy.progress import step
from deploy.quantize import QUANTIZED
from deploy.report import EngineRecord, Report, machine, read_report
from deploy.repository import network_files, network_fingerprint
from deploy.verify import Samples, load_samples
from model.checkpoint import Checkpoint

CPU_TARGETS = (ONNX, "openvino")
TIMING_CACHE = "tensorrt.timing_cache"
INSPECTED = 4  # images that a refused engine's layers are compared on
CALIBRATION = 64  # training images that int8 and fp8 take their ranges from


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
        self.wanted = engines(options)

    def current(self) -> tuple[EngineRecord, ...]:
        """Engines of the last build that still are what they were: same model, same making, same bytes on disk."""
        previous = read_report(self.output)
        if previous is None or previous.model_key != self.model_key:
            return ()
        keys = {engine.file: self._key(engine) for engine in self.wanted}
        return tuple(
            record
            for record in previous.engines
            if keys.get(record.file, record.key) == record.key and self._is_whole(record)
        )

    def missing(self, current: Sequence[EngineRecord]) -> list[Engine]:
        """The wanted engines that are not current, in the order in which they depend on each other."""
        found = {record.file for record in current}
        return [engine for engine in self.wanted if engine.file not in found]

    def build(self, missing: Sequence[Engine], kept: Sequence[EngineRecord], samples: Samples) -> Report:
        """Make, verify and publish what is missing.

        Raises BuildError, nothing published, where one engine fails; only "auto" goes on without it.
        """
        self.model = self.checkpoint.build()
        with step(self.console, f"PyTorch fp32 on {samples.name}"):
            self.judge = Judge(self.model, samples, self.contract.max_batch)
        self.records = {record.file: record for record in kept if record.file not in {item.file for item in missing}}
        with TemporaryDirectory(prefix=".build-", dir=self.output) as scratch:
            for engine in missing:
                self.records[engine.file] = self._make_or_refuse(engine, Path(scratch))
            report = self._report(samples.name)
            with step(self.console, "timing the engines in turn"):
                report = self.judge.timed(report, lambda record: self._runner(record, self.output / record.file))
            self._publish(report, [self.records[engine.file] for engine in missing], Path(scratch))
        return report

    def _report(self, samples: str) -> Report:
        """Of everything made and kept, not yet timed."""
        return Report(
            checkpoint=self.name,
            model_key=self.model_key,
            contract=asdict(self.contract),
            samples=samples,
            reference_scores=self.judge.reference_scores,
            reference_ms=0.0,
            engines=tuple(self.records.values()),
            machine=machine(),
            versions=export_tools(),
            left_out=left_out(self.options),
        )

    def _key(self, engine: Engine) -> str:
        return fingerprint(
            model=self.model_key,
            target=engine.target,
            precision=engine.precision,
            tool=_tool(engine),
            gpu=None if engine.target in CPU_TARGETS else asdict(self.options.gpu),
        )

    def _is_whole(self, record: EngineRecord) -> bool:
        path = self.output / record.file
        return record.refused is not None or (path.is_file() and network_fingerprint(path) == record.sha256)

    def _make_or_refuse(self, engine: Engine, scratch: Path) -> EngineRecord:
        """The engine's record; under "auto" one that says why there is no engine."""
        source = self.records.get(engine.source.file) if engine.source else None
        blank = EngineRecord(engine.target, engine.precision, engine.file, 0, 0.0, _tool(engine), self._key(engine), "")
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
                export_onnx(self.model, self.contract, path)
            else:
                float32 = onnx.load(self._file(engine.source, scratch))
                threads, loss = self.options.threads, self.judge.loss
                lowered = derive(float32, engine.precision, loss, self._calibration, threads, progress)
                onnx.save(lowered, path)
                check_onnx(path, self.contract)
        record = EngineRecord(
            target=engine.target,
            precision=engine.precision,
            file=engine.file,
            bytes=sum(file.stat().st_size for file in network_files(path)),
            build_seconds=time.perf_counter() - start,
            tool=_tool(engine),
            key=self._key(engine),
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
        return load_samples(self.contract, self.options.data, CALIBRATION, "train")

    def _request(self, engine: Engine, scratch: Path) -> BuildRequest:
        assert engine.source is not None
        return BuildRequest(
            self.model,
            self._file(engine.source, scratch),
            self.contract,
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


def _tool(engine: Engine) -> str:
    return onnx_version() if engine.target == ONNX else TARGETS[engine.target].version()
