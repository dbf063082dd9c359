"""Build, verify and publish the engines of a checkpoint: plan, look at what is there, make what is missing."""

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich import get_console
from rich.console import Console

from data_pipeline import DataError
from data_pipeline.command_line import MOST_THREADS
from data_pipeline.cores import cores
from data_pipeline.fields import INT32
from data_pipeline.files import locked
from deploy.building import cache, commit
from deploy.building.plan import (
    AUTO,
    BuildOptions,
    Job,
    check_plugins,
    choose_targets,
    contract_of,
    plan_engines,
    with_point,
)
from deploy.engines import ONNX, PRECISIONS, TARGETS, GpuOptions
from deploy.errors import BuildError
from deploy.report import Report
from model.checkpoint import RANDOM_PREFIX, CheckpointError, load_checkpoint

DEFAULT_CHECKPOINT = Path(__file__).parents[2] / "model" / "weights" / "skin-tiny.safetensors"
OPTIMIZATION_LEVELS = range(6)  # TensorRT's own
SCRATCH = ".build-"  # begins the name of a folder in the output, in which a build works until all is good


def build(
    checkpoint: str | Path = DEFAULT_CHECKPOINT,
    output: str | Path = "build",
    *,
    targets: Sequence[str] | None = None,
    precision: str = "fp32",
    max_batch: int = 8,
    compute_capabilities: Sequence[str] = (),
    plugins: bool = False,
    any_gpu: bool = False,
    optimization_level: int | None = None,
    gpu_repository: bool = False,
    data: str | None = None,
    samples: int = 200,
    threads: int | None = None,
    console: Console | None = None,
) -> Report:
    """Build and verify the engines of a checkpoint, and the model repository that serves them.

    What has not changed since the last build in `output` is not built again. `python -m deploy.build_engine` is a
    command line over this function.

    Args:
        checkpoint: a .safetensors file, or "random:PRESET" for seeded random weights.
        output: folder for the engines, `model_repository/`, `report.json` and `report.html`. A missing one is made.
        targets: of "onnx", "openvino", "tensorrt-rtx", "tensorrt", "torch-tensorrt". None is all that this machine
            builds.
        precision: "fp32", "tf32", "fp16", "bf16", "int8", "mixed", "fp8", or "auto" for all that this
            machine runs.
        max_batch: engines take batches of 1 to this.
        compute_capabilities: of tensorrt-rtx, such as "8.6".
        plugins: run this project's own GPU kernels inside TensorRT engines.
        any_gpu: build one TensorRT engine for all GPUs from Ampere on.
        optimization_level: of TensorRT's builder, 0 to 5. None is the library's default.
        gpu_repository: write the GPU server's repository too, without a plan where none was built.
        data: source of the validation images. None is what the checkpoint was trained on.
        samples: number of validation images to verify on.
        threads: of CPU engines when they are timed. None is every core.
        console: where progress is shown. None shows nothing.

    Returns:
        What was built, how fast it is and what it costs on the task, as `report.json` holds it.

    Raises:
        BuildError: an argument, the checkpoint or the data cannot be used, or an engine fails verification. Nothing is
            published then, and the engines of the last good build stay.
    """
    _check_names(targets, precision)
    _check_numbers(optimization_level, max_batch=max_batch, samples=samples, threads=threads)
    gpu = GpuOptions(
        compute_capabilities=tuple(dict.fromkeys(map(with_point, compute_capabilities))),
        plugins=plugins,
        any_gpu=any_gpu,
        optimization_level=optimization_level,
    )
    if plugins:
        check_plugins(targets, precision, max_batch, any_gpu)
    # Before the checkpoint is read: what this machine cannot do is the quickest answer.
    chosen = choose_targets(targets, precision, gpu)
    try:
        loaded = load_checkpoint(checkpoint)
        # Random weights have learned nothing, so a score would say nothing about an engine.
        trained_on = None if str(checkpoint).startswith(RANDOM_PREFIX) else loaded.info.data
        options = BuildOptions(
            targets=chosen,
            precision=precision,
            threads=threads or cores(),
            data=data or trained_on,
            samples=samples,
            gpu=gpu,
            gpu_repository=gpu_repository,
        )
        job = Job(
            name=Path(checkpoint).name,
            checkpoint=loaded,
            contract=contract_of(loaded.info, max_batch),
            options=options,
            output=Path(output),
        )
        return run(job, console or Console(quiet=True))
    except (CheckpointError, DataError) as error:
        raise BuildError(str(error)) from error
    except OSError as error:
        # The name of a file inside a folder that is gone by now would help nobody.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BuildError(
                f"the disk of {output} is full: make room and repeat; the last build is as it was"
            ) from None
        raise BuildError(str(error)) from error


def run(job: Job, console: Console) -> Report:
    """Build what a job lacks and publish it, all or nothing."""
    job.output.mkdir(parents=True, exist_ok=True)
    try:
        with locked(job.output), _shared_console(quiet=console.quiet):
            return _build_locked(job, console)
    except BlockingIOError:
        message = f"another build is writing to {job.output}: wait for it to end, or give another output folder"
        raise BuildError(message) from None


def _build_locked(job: Job, console: Console) -> Report:
    """Finish or remove what a killed build left, then build what is missing."""
    commit.check_room(job.output)
    # The lock is held, so nothing here belongs to a build that still runs.
    commit.finish(job.output)
    for left in job.output.glob(f"{SCRATCH}*"):
        shutil.rmtree(left)
    state = cache.load(job)
    _check_refusals(state)
    if state.finished:
        console.print(f"nothing has changed: {len(state.keys)} engines in {job.output} are current")
        return state.finished
    # MONAI and NNCF take seconds to import, and a repeat needs neither.
    from deploy.building import builder
    from deploy.building.publish import publish

    # In the output folder, so that finished files are moved and not copied into place.
    with TemporaryDirectory(prefix=SCRATCH, dir=job.output) as scratch:
        return publish(builder.build(state, Path(scratch), console))


def _check_refusals(state: cache.BuildState) -> None:
    """Raise BuildError where an engine that was asked for by its precision was refused by the last build."""
    options = state.job.options
    if options.precision == AUTO:
        return
    wanted = {spec.file for spec in plan_engines(options)}
    for engine in state.current:
        if engine.refused and engine.file in wanted:
            raise BuildError(f"{engine.refused} (by the last build, and nothing has changed since)")


@contextmanager
def _shared_console(*, quiet: bool) -> Iterator[None]:
    """Silence rich's shared console inside the block where `quiet` is True."""
    # NNCF and the generation of data draw their bars on it, and neither can be told not to.
    console = get_console()
    before, console.quiet = console.quiet, console.quiet or quiet
    try:
        yield
    finally:
        console.quiet = before


def _check_names(targets: Sequence[str] | None, precision: str) -> None:
    """Raise BuildError for names that the command line refuses by itself."""
    if isinstance(targets, str):
        raise BuildError(f'targets must be a list of names, as in ["{targets}"], got the text "{targets}"')
    if targets is not None:
        known = (ONNX, *TARGETS)
        unknown = [name for name in targets if name not in known]
        if unknown or not targets:
            raise BuildError(f"targets must be of {', '.join(known)}, got {', '.join(unknown) or 'none'}")
    if precision not in (*PRECISIONS, AUTO):
        raise BuildError(f"precision must be one of {', '.join((*PRECISIONS, AUTO))}, got {precision}")


def _check_numbers(optimization_level: int | None, **counts: int | None) -> None:
    """Raise BuildError for numbers that the command line refuses by itself."""
    for name, count in counts.items():
        most = MOST_THREADS if name == "threads" else INT32
        if count is not None and not 1 <= count <= most:
            raise BuildError(f"{name} must be 1 to {most}, got {count}")
    if optimization_level is not None and optimization_level not in OPTIMIZATION_LEVELS:
        raise BuildError(f"optimization_level must be 0 to {OPTIMIZATION_LEVELS[-1]}, got {optimization_level}")
