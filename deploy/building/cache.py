"""Find out which engines of a job the last build left ready, cheaply, so that a repeat is quick."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from itertools import compress
from pathlib import Path
from typing import Any

from deploy.building.plan import EngineSpec, Job, plan_engines
from deploy.engines import ONNX, TARGETS, onnx_version
from deploy.files import DIRECTORY, GPU_DIRECTORY, network_fingerprint
from deploy.report import CPU_TARGETS, EngineRecord, Report, read_report
from model.checkpoint import Checkpoint

EXPORT_TOOLS = ("torch", "onnx", "onnxscript")
OWN_PACKAGES = ("kernels", "model", "data_pipeline", "deploy")


@dataclass(frozen=True, kw_only=True)
class BuildState:
    """Hold what a job wants, what of it is current, and what is missing.

    job: what was asked for.
    model_key: fingerprint of everything that its engines have in common.
    keys: fingerprint of everything that each wanted engine is made from, by file.
    current: records of the last build's engines that are unchanged, including those not asked for this time.
    missing: the wanted engines that are not current, each after its source.
    finished: the last build's report where nothing is missing, the model repositories included, or else None.
    """

    job: Job
    model_key: str
    keys: dict[str, str]
    current: tuple[EngineRecord, ...]
    missing: tuple[EngineSpec, ...]
    finished: Report | None


def load(job: Job) -> BuildState:
    """Compare the job with what the last build left in its output folder."""
    wanted, model_key = plan_engines(job.options), _model_key(job)
    keys = {spec.file: _engine_key(job, spec, model_key) for spec in wanted}
    previous = read_report(job.output)
    # Engines of another model must never stay with new ones, so nothing of that build counts.
    if previous and previous.model_key != model_key:
        previous = None
    current = _current(previous, keys, job.output) if previous else ()
    ready = {record.file for record in current}
    missing = tuple(spec for spec in wanted if spec.file not in ready)
    directories = [DIRECTORY, GPU_DIRECTORY] if job.options.gpu_repository else [DIRECTORY]
    complete = not missing and all((job.output / name).is_dir() for name in directories)
    return BuildState(
        job=job,
        model_key=model_key,
        keys=keys,
        current=current,
        missing=missing,
        finished=previous if complete else None,
    )


def tool(spec: EngineSpec) -> str:
    """Name the tool that makes an engine, with its version."""
    return onnx_version() if spec.target == ONNX else TARGETS[spec.target].version()


def export_tools() -> dict[str, str]:
    """Return the versions of the packages that turn the network into ONNX."""
    return {name: version(name) for name in EXPORT_TOOLS}


def _current(previous: Report, keys: dict[str, str], output: Path) -> tuple[EngineRecord, ...]:
    """Return the records whose engines are made as they would be now and have the same bytes on disk."""
    # An engine that is not asked for this time has no key here and counts as unchanged.
    unchanged = [record for record in previous.engines if keys.get(record.file, record.key) == record.key]

    def is_whole(record: EngineRecord) -> bool:
        # A refusal is kept as well, so that "auto" does not build the same engine again only to refuse it again.
        path = output / record.file
        return record.refused is not None or (path.is_file() and network_fingerprint(path) == record.sha256)

    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        return tuple(compress(unchanged, pool.map(is_whole, unchanged)))


def _model_key(job: Job) -> str:
    """Hash everything that all engines of a job are made from and verified on."""
    return _fingerprint(
        checkpoint=_checkpoint_fingerprint(job.checkpoint),
        code=_code_fingerprint(),
        contract=job.contract.to_json(),
        tools=export_tools(),
        verified_on=[job.options.data, job.options.samples],
    )


def _engine_key(job: Job, spec: EngineSpec, model_key: str) -> str:
    """Hash everything that one engine is made from."""
    return _fingerprint(
        model=model_key,
        target=spec.target,
        precision=spec.precision,
        tool=tool(spec),
        # Engines for a CPU do not change with the options for a GPU.
        gpu=None if spec.target in CPU_TARGETS else asdict(job.options.gpu),
    )


def _fingerprint(**parts: Any) -> str:
    """Hash parts that JSON can hold (SHA-256), whatever their order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _checkpoint_fingerprint(checkpoint: Checkpoint) -> str:
    """Hash every weight's bytes and the checkpoint's description of them."""
    digest = hashlib.sha256(checkpoint.info.to_json().encode())
    for name, tensor in sorted(checkpoint.state.items()):
        # With its name: two tensors of one shape could be exchanged.
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@cache
def _code_fingerprint() -> str:
    """Hash this project's own source, so that a changed rewrite or check rebuilds what it would change."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for file in sorted(file for package in OWN_PACKAGES for file in (root / package).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
