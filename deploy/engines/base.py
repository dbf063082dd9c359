"""Define what every kind of engine has in common: its request, its output, and the interface of a target."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.contract import Contract
from deploy.network.parity import EngineOutput
from model import MultiTaskResFormer

Precision = str
# "mixed" is int8 in the convolutions alone, and what a processor has for everything else.
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16", "int8", "mixed", "fp8")
QUANTIZED: tuple[Precision, ...] = ("int8", "mixed", "fp8")  # whose ranges come from images


Runner = Callable[[NDArray[np.float32]], EngineOutput]
"""Map normalised images (B, 3, S, S) float32 to outputs."""

Progress = Callable[[str, float], None]
"""Report the name of the step under way and the share of it that is done, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """Choose how engines for a GPU are built.

    compute_capabilities: such as "8.6". Empty is the target's default.
    plugins: run the two kernels of this project instead of the plain graph.
    any_gpu: one engine for every GPU from Ampere on, at some cost in speed (TensorRT's "Hardware Compatibility").
    optimization_level: 0 to 5, how long the builder searches for speed. None is the library's default.
    """

    compute_capabilities: tuple[str, ...] = ()
    plugins: bool = False
    any_gpu: bool = False
    optimization_level: int | None = None


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """Ask a target for an engine before anything is loaded or exported.

    precision: one of `PRECISIONS`.
    gpu: ignored by targets of the CPU, except for what they must refuse.
    """

    precision: Precision
    gpu: GpuOptions = field(default_factory=GpuOptions)


@dataclass(frozen=True, kw_only=True)
class BuildRequest(EngineRequest):
    """Give a target all that it builds an engine from.

    model: the network in its trained form.
    onnx: the same network, exported at `Target.onnx_precision(precision)`.
    contract: names and shapes that the engine must have.
    threads: of a CPU engine, which chooses its forms by timing them. 0 is all cores.
    timing_cache: file in which a builder that times kernels keeps its measurements for the next build. Each target has
        one of its own.
    """

    model: MultiTaskResFormer
    onnx: Path
    contract: Contract
    threads: int = 0
    timing_cache: Path | None = None


class Target(ABC):
    """Define a kind of engine: what it can do on this machine, how it is built, how it is run.

    name: as on the command line and in reports.
    suffix: of its files.
    precisions: those it can be built in.
    takes_plugins: whether this project's own kernels can run inside it.
    by_default: whether a build without --target makes it, where this machine can.
    """

    # Set by each class, or by its `__init__` where one class serves two libraries.
    name: str
    suffix: str
    precisions: tuple[Precision, ...]
    takes_plugins = False
    by_default = True

    @property
    def runs_here(self) -> bool:
        """Tell whether this machine can run what it builds."""
        return False

    def check(self, request: EngineRequest) -> list[str]:
        """List every reason why this machine cannot build the request, one line each."""
        # All of them at once, so that a user need not find them one by one.
        reasons = []
        if request.precision not in self.precisions:
            reasons.append(f"{self.name} builds {', '.join(self.precisions)}, not {request.precision}")
        if request.gpu.plugins and not self.takes_plugins:
            others = "leave --plugins out, or build --target tensorrt"
            reasons.append(f"{self.name} takes no plugins: {others}")
        return reasons

    @abstractmethod
    def version(self) -> str:
        """Name the tool and its version, a part of what decides whether an engine is still current."""

    def onnx_precision(self, precision: Precision) -> Precision:
        """Return the precision of the ONNX file that `build` starts from."""
        # Most tools take the float32 file and lower the precision themselves.
        return "fp32"

    @abstractmethod
    def build(self, request: BuildRequest, path: Path, progress: Progress) -> None:
        """Write the engine to `path`.

        Raises BuildError with every reason that the tool gave.
        """

    def execution(self, precision: Precision) -> str | None:
        """Name the execution of `deploy.network` that runs its engines on a CPU, or return None for those of a GPU."""
        return None

    def runner(self, path: Path) -> Runner | None:
        """Open an engine of a GPU, or return None where this machine can build but not run it."""
        return None
