"""Plan a build: which engines it consists of, what each is made from, and whether this machine can build them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.contract import Contract
from deploy.engines import ONNX, TARGETS, EngineRequest, GpuOptions
from deploy.errors import BuildError
from deploy.export import EXPORT_DTYPES
from model.checkpoint import Checkpoint, CheckpointInfo

AUTO = "auto"
# What "auto" builds where an engine cannot be run: half the bytes of fp32, and its ONNX file is verified here.
UNTIMED = "fp16"
# The targets that each option about GPUs has a meaning for.
GPU_OPTIONS = {
    "--compute-capability": ("tensorrt-rtx",),
    "--any-gpu": ("tensorrt", "torch-tensorrt"),
    "--optimization-level": ("tensorrt-rtx", "tensorrt", "torch-tensorrt"),
}
CALIBRATION = 64  # training images that quantised engines take their ranges from


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Hold what can be chosen about a build.

    targets: as on the command line, without duplicates.
    precision: one of `PRECISIONS`, or "auto".
    threads: of CPU engines when they are timed.
    data: source of the validation images, or None for noise.
    samples: number of validation images.
    gpu: how engines for a GPU are built.
    gpu_repository: write the GPU server's model repository even without a plan to put into it.
    """

    targets: Sequence[str]
    precision: str
    threads: int
    data: str | None
    samples: int
    gpu: GpuOptions
    gpu_repository: bool


@dataclass(frozen=True, kw_only=True)
class Job:
    """Ask for the engines of one checkpoint.

    name: the checkpoint's, for the reader.
    checkpoint: the trained weights.
    contract: what the engines take and return.
    options: how they are built and verified.
    output: the folder that holds the last build and receives this one.
    """

    name: str
    checkpoint: Checkpoint
    contract: Contract
    options: BuildOptions
    output: Path


@dataclass(frozen=True)
class EngineSpec:
    """Name one engine of a build.

    target: "onnx" or a name in `TARGETS`.
    precision: one of `PRECISIONS`.
    """

    target: str
    precision: str

    @property
    def name(self) -> str:
        """Return its name for the reader, as "openvino fp32"."""
        return f"{self.target} {self.precision}"

    @property
    def file(self) -> str:
        """Return the name of its file: model.onnx is the fp32 export, everything else carries its precision."""
        if self.target == ONNX:
            return "model.onnx" if self.precision == "fp32" else f"model.{self.precision}.onnx"
        return f"{self.target}.{self.precision}{TARGETS[self.target].suffix}"

    @property
    def source(self) -> "EngineSpec | None":
        """Return what it is made from: an engine from an ONNX file, a lower precision from the float32 file."""
        if self.target != ONNX:
            return EngineSpec(ONNX, TARGETS[self.target].onnx_precision(self.precision))
        return None if self.precision == "fp32" else EngineSpec(ONNX, "fp32")


def plan_engines(options: BuildOptions) -> list[EngineSpec]:
    """List the engines asked for and everything that they are made from, each after its source."""
    wanted = [EngineSpec(target, each) for target in options.targets for each in precisions(target, options)]
    ordered: dict[EngineSpec, None] = {}  # a set that keeps its order
    for spec in wanted:
        chain = [spec]
        while source := chain[-1].source:
            chain.append(source)
        ordered |= dict.fromkeys(reversed(chain))
    # All ONNX files come first. The sort keeps the order within both groups.
    return sorted(ordered, key=lambda spec: spec.target != ONNX)


def precisions(target: str, options: BuildOptions) -> list[str]:
    """List the precision asked for, or for "auto" all that this machine can build and time."""
    if options.precision != AUTO:
        return [options.precision]
    # Its other precisions are made only where an engine has one of them as its source.
    if target == ONNX:
        return ["fp32"]
    kind = TARGETS[target]
    if not kind.runs_here:
        return [UNTIMED]
    return [each for each in kind.precisions if not kind.check(EngineRequest(precision=each, gpu=options.gpu))]


def left_out(options: BuildOptions) -> dict[str, str]:
    """Return the engines that "auto" cannot try on this machine, by name, with the reasons."""
    if options.precision != AUTO:
        return {}
    kinds = [TARGETS[name] for name in options.targets if name != ONNX and TARGETS[name].runs_here]
    reasons = {
        f"{kind.name} {each}": kind.check(EngineRequest(precision=each, gpu=options.gpu))
        for kind in kinds
        for each in kind.precisions
    }
    return {name: "; ".join(found) for name, found in reasons.items() if found}


def choose_targets(named: Sequence[str] | None, precision: str, gpu: GpuOptions) -> list[str]:
    """Return the targets named, or all that this machine builds at this precision.

    Raises BuildError with every reason where a named one cannot be built.
    """
    # "auto" leaves out what does not work, so only fp32, which every target has, must.
    first = "fp32" if precision == AUTO else precision
    if named is None:
        # Without the GPU options, so that one that fits no target is an error and not a build without that target.
        usual = [ONNX, *(name for name, target in TARGETS.items() if target.by_default)]
        named = [name for name in usual if not _check(name, EngineRequest(precision=first))]
    refused = [reason for name in named for reason in _check(name, EngineRequest(precision=first, gpu=gpu))]
    refused = refused or _without_meaning(named, gpu)
    if refused or not named:
        nothing = f"this machine builds no engine in {precision}; choose another --precision"
        raise BuildError("; ".join(refused) or nothing)
    return list(dict.fromkeys(named))


def _check(name: str, request: EngineRequest) -> list[str]:
    """List the reasons against a target or against the ONNX file itself."""
    if name != ONNX:
        return TARGETS[name].check(request)
    return ["onnx files have no tf32: it is a GPU's way to multiply fp32"] if request.precision == "tf32" else []


def _without_meaning(named: Sequence[str], gpu: GpuOptions) -> list[str]:
    """List the GPU options that fit none of the targets."""
    values = (bool(gpu.compute_capabilities), gpu.any_gpu, gpu.optimization_level is not None)
    return [
        f"{option} needs --target {' or '.join(targets)}, got {', '.join(named) or 'none'}"
        for (option, targets), given in zip(GPU_OPTIONS.items(), values, strict=True)
        if given and not set(targets) & set(named)
    ]


def with_point(capability: str) -> str:
    """Return a compute capability such as 86 as NVIDIA writes it, 8.6, and any other text as it is."""
    return f"{capability[:-1]}.{capability[-1]}" if capability.isdecimal() and len(capability) > 1 else capability


def check_plugins(named: Sequence[str] | None, precision: str, max_batch: int, any_gpu: bool) -> None:
    """Raise BuildError unless `--plugins` comes with a target, a precision and a batch that the export can serve."""
    refused = []
    if not named or set(named) == {ONNX}:
        refused.append("--plugins needs --target tensorrt")
    if any_gpu:
        refused.append("--plugins compiles the kernels for the GPU at hand: leave --any-gpu out")
    if precision not in EXPORT_DTYPES:
        refused.append(f"--plugins builds {', '.join(EXPORT_DTYPES)}, not {precision}")
    # A plugin's launch is compiled for one shape.
    if max_batch > 1:
        refused.append(f"--plugins builds static shapes: give --max-batch 1, got {max_batch}")
    if refused:
        raise BuildError("; ".join(refused))


def contract_of(info: CheckpointInfo, max_batch: int) -> Contract:
    """Describe what a checkpoint will take and return once it is served."""
    return Contract(
        preprocessing=info.preprocessing,
        seg_classes=info.seg_classes,
        labels=info.labels,
        max_batch=max_batch,
        thresholds=info.calibration.thresholds if info.calibration else None,
    )
