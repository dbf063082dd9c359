"""What one build is to have, and what of it the last build left ready: cheap to ask, so that a repeat is quick."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path

from deploy.contract import Contract
from deploy.engines import ONNX, TARGETS, onnx_version
from deploy.fingerprint import checkpoint_fingerprint, code_fingerprint, export_tools, fingerprint
from deploy.plan import BuildOptions, Engine, engines
from deploy.report import EngineRecord, Report, read_report
from deploy.repository import DIRECTORY, GPU_DIRECTORY, network_fingerprint
from model.checkpoint import Checkpoint

CPU_TARGETS = (ONNX, "openvino")


@dataclass(frozen=True)
class Job:
    """The engines of one checkpoint in `output`, which exists; `name` is the checkpoint's, for the reader."""

    name: str
    checkpoint: Checkpoint
    contract: Contract
    options: BuildOptions
    output: Path

    @cached_property
    def model_key(self) -> str:
        """Of everything that all its engines are made of and verified on."""
        return fingerprint(
            checkpoint=checkpoint_fingerprint(self.checkpoint),
            code=code_fingerprint(),
            contract=self.contract.to_json(),
            tools=export_tools(),
            verified_on=[self.options.data, self.options.samples],
        )

    @cached_property
    def wanted(self) -> list[Engine]:
        """The engines asked for, each after what it is made from."""
        return engines(self.options)

    def key(self, engine: Engine) -> str:
        """Of everything that one engine is made of: where it is unchanged, the engine is not built again."""
        return fingerprint(
            model=self.model_key,
            target=engine.target,
            precision=engine.precision,
            tool=tool(engine),
            gpu=None if engine.target in CPU_TARGETS else asdict(self.options.gpu),
        )

    def current(self) -> tuple[EngineRecord, ...]:
        """Engines of the last build that still are what they were: same model, same making, same bytes on disk."""
        previous = read_report(self.output)
        if previous is None or previous.model_key != self.model_key:
            return ()
        keys = {engine.file: self.key(engine) for engine in self.wanted}
        alike = [record for record in previous.engines if keys.get(record.file, record.key) == record.key]
        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            return tuple(compress(alike, pool.map(self._is_whole, alike)))

    def missing(self, current: Sequence[EngineRecord]) -> list[Engine]:
        """The wanted engines that are not current, in the order in which they depend on each other."""
        found = {record.file for record in current}
        return [engine for engine in self.wanted if engine.file not in found]

    def finished(self, missing: Sequence[Engine]) -> Report | None:
        """The last build's report where all that is wanted is there, the model repositories too."""
        directories = [DIRECTORY, GPU_DIRECTORY] if self.options.gpu_repository else [DIRECTORY]
        if missing or not all((self.output / name).is_dir() for name in directories):
            return None
        return read_report(self.output)

    def _is_whole(self, record: EngineRecord) -> bool:
        path = self.output / record.file
        return record.refused is not None or (path.is_file() and network_fingerprint(path) == record.sha256)


def tool(engine: Engine) -> str:
    """What makes the engine, with its version."""
    return onnx_version() if engine.target == ONNX else TARGETS[engine.target].version()
