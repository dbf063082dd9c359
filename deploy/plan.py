"""Which engines a build consists of, what each is made from, and where it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from deploy.engines import ONNX, TARGETS, GpuOptions

AUTO = "auto"
UNTIMED = "fp16"
"""What `auto` builds where an engine cannot be run: half the bytes of fp32, and its ONNX file is verified here."""


@dataclass(frozen=True)
class BuildOptions:
    """What may be chosen of a build; see `python -m deploy.build_engine --help`.

    gpu_repository: write the GPU server's model repository even without a plan to put into it.
    """

    targets: Sequence[str]
    precision: str
    threads: int = 2
    data: str | None = None
    samples: int = 200
    gpu: GpuOptions = field(default_factory=GpuOptions)
    gpu_repository: bool = False


@dataclass(frozen=True)
class Engine:
    """An engine to have: a target at a precision."""

    target: str
    precision: str

    @property
    def name(self) -> str:
        return f"{self.target} {self.precision}"

    @property
    def file(self) -> str:
        """model.onnx is the fp32 export; everything else carries its precision in its name."""
        if self.target == ONNX:
            return "model.onnx" if self.precision == "fp32" else f"model.{self.precision}.onnx"
        return f"{self.target}.{self.precision}{TARGETS[self.target].suffix}"

    @property
    def source(self) -> Engine | None:
        """What it is made from: an engine from the ONNX file, a lower precision from the float32 one."""
        if self.target != ONNX:
            return Engine(ONNX, TARGETS[self.target].onnx_precision(self.precision))
        return None if self.precision == "fp32" else Engine(ONNX, "fp32")


def engines(options: BuildOptions) -> list[Engine]:
    """The engines asked for and all that they are made from, each after its source."""
    wanted = [Engine(target, each) for target in options.targets for each in precisions(target, options.precision)]
    ordered: dict[Engine, None] = {}
    for engine in wanted:
        chain = [engine]
        while source := chain[-1].source:
            chain.append(source)
        ordered |= dict.fromkeys(reversed(chain))
    return sorted(ordered, key=lambda engine: engine.target != ONNX)


def precisions(target: str, wanted: str) -> list[str]:
    """`wanted` itself, or for "auto" all that this machine can build and time."""
    if wanted != AUTO:
        return [wanted]
    if target == ONNX:
        return ["fp32"]
    kind = TARGETS[target]
    return [each for each in kind.precisions if not kind.refuses(each)] if kind.runs_here else [UNTIMED]


def left_out(options: BuildOptions) -> dict[str, str]:
    """The precisions that "auto" could not try here, by engine, and why."""
    if options.precision != AUTO:
        return {}
    kinds = [TARGETS[name] for name in options.targets if name != ONNX and TARGETS[name].runs_here]
    reasons = {f"{kind.name} {each}": kind.refuses(each) for kind in kinds for each in kind.precisions}
    return {name: reason for name, reason in reasons.items() if reason}
