"""Find out what of the last build is still as it was published, and which engines of a job are current."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data_pipeline import Split, open_source
from deploy.building.plan import CALIBRATION, EngineSpec, Job, plan_engines
from deploy.content import fingerprint, possible_files
from deploy.engines import ONNX, QUANTIZED, TARGETS, execution, onnx_version
from deploy.engines.gpu import capability_here, name_here
from deploy.files import GPU_DIRECTORY
from deploy.report import CPU_TARGETS, EngineRecord, Report, machine, read_report
from model.checkpoint import Checkpoint
from model.origin import split_seed

EXPORT_TOOLS = ("torch", "onnx", "onnxscript")
# DALI by its distribution: a repeated build need not wait until it is imported.
DECODER = "nvidia-dali-cuda130"
OWN_PACKAGES = ("kernels", "model", "data_pipeline", "deploy")
SOURCES = (".py", ".html", ".css", ".js", ".cpp", ".hpp")


@dataclass(frozen=True, kw_only=True)
class BuildState:
    """Hold what a job wants, what of it is current, and what is missing.

    job: what was asked for.
    model_key: fingerprint of everything that its engines have in common.
    structure_key: fingerprint of everything that the exported graph depends on, except for the weights.
    keys: fingerprint of everything that an engine is made from, by file, of those wanted and those of the last build.
    current: records of the last build's engines that are unchanged, including those not asked for this time.
    files: SHA-256 of the current engines' files, by name.
    missing: the wanted engines that are not current, and damaged ones of the last build, each after its source.
    gpu_repository: whether the GPU server's repository is asked for, now or by the build that left the current engines.
    finished: the last build's report where nothing is missing and every published file is whole, or else None.
    """

    job: Job
    model_key: str
    structure_key: str
    keys: dict[str, str]
    current: tuple[EngineRecord, ...]
    files: dict[str, str]
    missing: tuple[EngineSpec, ...]
    gpu_repository: bool
    finished: Report | None


def load(job: Job) -> BuildState:
    """Compare the job with what the last build left in its output folder.

    Raises DataError where the images that it is to be verified on cannot be used.
    """
    model_key, wanted = _model_key(job), plan_engines(job.options)
    previous = read_report(job.output)
    # Engines of another model must never stay with new ones, so nothing of that build counts.
    if previous and previous.model_key != model_key:
        previous = None
    engines, published = (previous.engines, previous.files) if previous else ((), {})
    earlier = [EngineSpec(record.target, record.precision) for record in engines]
    quantised = any(spec.precision in QUANTIZED for spec in (*wanted, *earlier))
    calibration = _data_fingerprint(job, "train", CALIBRATION) if quantised else None
    keys = {spec.file: _engine_key(job, spec, model_key, calibration) for spec in (*wanted, *earlier)}
    whole = _whole_files(job.output, published)
    unchanged = [record for record in engines if _is_unchanged(record, keys, asked=wanted)]
    current = tuple(record for record in unchanged if _is_whole(record, published, whole))
    # What was whole until someone damaged it is made again, although only the others were asked for.
    lost = {record.file for record in unchanged} - {record.file for record in current}
    needed = dict.fromkeys([*wanted, *(spec for spec in earlier if spec.file in lost)])
    ready = {record.file for record in current}
    missing = tuple(spec for spec in needed if spec.file not in ready)
    has_gpu_repository = any(name.startswith(f"{GPU_DIRECTORY}/") for name in published)
    complete = not missing and len(current) == len(engines) and whole == published.keys()
    return BuildState(
        job=job,
        model_key=model_key,
        structure_key=_structure_key(job),
        keys=keys,
        current=current,
        files={name: published[name] for record in current for name in _files_of(record, published)},
        missing=missing,
        gpu_repository=job.options.gpu_repository or has_gpu_repository,
        finished=previous if complete and (has_gpu_repository or not job.options.gpu_repository) else None,
    )


def tool(spec: EngineSpec) -> str:
    """Name the tool that makes an engine, with its version."""
    return onnx_version() if spec.target == ONNX else TARGETS[spec.target].version()


def export_tools() -> dict[str, str]:
    """Return the versions of the packages that turn the network into ONNX."""
    return {name: version(name) for name in EXPORT_TOOLS}


def _whole_files(output: Path, published: Mapping[str, str]) -> set[str]:
    """Return the names of those published files that have the bytes that they were published with."""

    def is_whole(name: str) -> bool:
        try:
            return fingerprint(output / name) == published[name]
        except OSError:
            return False

    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        return {name for name, whole in zip(published, pool.map(is_whole, published), strict=True) if whole}


def _files_of(record: EngineRecord, published: Mapping[str, str]) -> list[str]:
    """List the published files of an engine: its own and its companions."""
    return [file.name for file in possible_files(Path(record.file)) if file.name in published]


def _is_unchanged(record: EngineRecord, keys: Mapping[str, str], asked: Sequence[EngineSpec]) -> bool:
    """Tell whether an engine of the last build is what would be made now."""
    # One for a GPU that is not asked for this time may have been built with other options for it.
    kept = record.target not in CPU_TARGETS and record.file not in {spec.file for spec in asked}
    # One that a build on a machine without its GPU has left without a time is timed, and so made, again.
    timed = record.parity is None or record.latency_ms is not None or name_here() is None
    return kept or (record.key == keys[record.file] and timed)


def _is_whole(record: EngineRecord, published: Mapping[str, str], whole: set[str]) -> bool:
    """Tell whether every file of an engine is as it was published."""
    files = _files_of(record, published)
    # A refusal has no file. It is kept, so that "auto" does not build the same engine again only to refuse it again.
    return record.refused is not None or (record.file in files and whole.issuperset(files))


def _model_key(job: Job) -> str:
    """Hash everything that all engines of a job are made from and verified on."""
    return _fingerprint(
        checkpoint=_checkpoint_fingerprint(job.checkpoint),
        code=_code_fingerprint(),
        contract=job.contract.to_json(),
        tools=export_tools(),
        decoded_by=version(DECODER),
        verified_on=_data_fingerprint(job, "validation", job.options.samples),
    )


def _structure_key(job: Job) -> str:
    """Hash what a network's graph is traced from: its configuration, and neither its weights nor the labels' names."""
    contract = job.contract
    return _fingerprint(
        config=asdict(job.checkpoint.info.config),
        tensors=[asdict(tensor) for tensor in (contract.network_input, *contract.outputs)],
        max_batch=contract.max_batch,
        code=_code_fingerprint(),
        tools=export_tools(),
    )


def _engine_key(job: Job, spec: EngineSpec, model_key: str, calibration: list[str] | None) -> str:
    """Hash everything that one engine is made from, and that its figures depend on."""
    return _fingerprint(
        model=model_key,
        target=spec.target,
        precision=spec.precision,
        tools=[tool(spec), *_other_tools(spec)],
        # Its forms are chosen by timing them, and its time decides what is served.
        timed_on=_timed_on(job.options.threads) if spec.target in CPU_TARGETS else None,
        calibrated_on=calibration if spec.precision in QUANTIZED else None,
        # Engines for a CPU do not change with the options for a GPU, nor with the GPU of this machine. Those for a GPU
        # are built for its architecture, and verified and timed on it.
        gpu=None if spec.target in CPU_TARGETS else [asdict(job.options.gpu), name_here(), capability_here()],
    )


def _other_tools(spec: EngineSpec) -> list[str]:
    """List what makes or runs an engine besides the tool that is named with it."""
    run_by = (execution(spec.target, spec.precision) or "").partition(" ")[0]
    packages = [*(["nncf"] if spec.precision in QUANTIZED else []), *(["openvino"] if run_by == "openvino" else [])]
    # Our kernels go into engines for a GPU as Triton compiles them.
    packages += [] if spec.target in CPU_TARGETS else ["triton"]
    return [f"{name} {version(name)}" for name in packages]


def _timed_on(threads: int) -> list[str]:
    return [machine()["processor"], machine()["features"], str(threads)]


def _data_fingerprint(job: Job, split: Split, samples: int) -> list[str]:
    """Hash what a job is verified or calibrated on: every image, mask and label in their order, and not their paths."""
    if job.options.data is None:
        return ["noise"]
    # As `open_images` opens them, and without its scan, for which a repeated build need not wait.
    seed = split_seed(job.checkpoint.info)
    dataset = open_source(job.options.data, split, samples=samples, seed=seed, skip_bad=True)
    records, names = dataset.records, [*dataset.seg_classes, *dataset.labels]
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(lambda record: fingerprint(record.image) + fingerprint(record.mask), records)
        return [*names, *(f"{both} {record.labels}" for both, record in zip(hashes, records, strict=True))]


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
    files = [file for package in OWN_PACKAGES for file in (root / package).rglob("*") if file.suffix in SOURCES]
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()
