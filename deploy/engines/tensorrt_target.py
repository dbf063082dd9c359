"""Offer TensorRT and TensorRT-RTX as targets: one class over either module, because they have the same interface.

`tensorrt-rtx` builds without a GPU, for any of its compute capabilities. `tensorrt` builds on the GPU it will run on.
Both are strongly typed: the engine's precision is the ONNX file's (TensorRT developer guide, "Strong Typing").
"""

import importlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.engines.base import BuildRequest, EngineRequest, Precision, Progress, Target
from deploy.engines.gpu import capability_here, plugin_refusals
from deploy.engines.tensorrt_builder import build_plan
from deploy.engines.tensorrt_log import error_log
from deploy.engines.tensorrt_runner import PlanRunner, invalidity
from deploy.export import export_onnx

FP8_SINCE = 8.9  # compute capability of Ada, the first that the builder compiles it for
# Compute capabilities whose GPUs run engines of TensorRT-RTX 1.7 (its support matrix): consumer and workstation GPUs.
RTX_GPUS = ("7.5", "8.6", "8.9", "12.0", "12.1")

OTHER_GPU = "UNSUPPORTED_CC"


class TensorRtTarget(Target):
    """Build engine files of one of the two libraries."""

    suffix = ".engine"
    precisions: tuple[Precision, ...] = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")

    def __init__(
        self, name: str, module: str, *, builds_without_gpu: bool, runs_on: Collection[str] | None = None
    ) -> None:
        """Name the target and the Python module of its library, which is imported only when it is needed.

        Args:
            name: as on the command line.
            module: of the library.
            builds_without_gpu: whether it needs no GPU until the engine is run.
            runs_on: compute capabilities of the GPUs that run its engines. None is every one.
        """
        self.runs_on = runs_on
        self.name, self.module, self.builds_without_gpu = name, module, builds_without_gpu
        self.takes_plugins = not builds_without_gpu  # TensorRT-RTX has no plugin package

    @property
    def runs_here(self) -> bool:
        """Tell whether this machine has a GPU that runs its engines."""
        here = capability_here()
        return here is not None and (self.runs_on is None or here in self.runs_on)

    def check(self, request: EngineRequest) -> list[str]:
        """List the general reasons, a missing library or GPU, and GPU options that do not fit this library."""
        # Without the GPU or the library nothing else can be asked.
        if not self.builds_without_gpu and not self.runs_here:
            return [f"{self.name} builds on the GPU it will run on, and this machine has none; use tensorrt-rtx here"]
        try:
            trt = importlib.import_module(self.module)
        except ImportError as error:
            return [f"{self.name} needs the Python package {self.module} ({error})"]
        reasons = super().check(request)
        here = capability_here()
        if request.precision == "fp8" and self.runs_here and here and float(here) < FP8_SINCE:
            need = f"a GPU of compute capability {FP8_SINCE} or later"
            reasons.append(f"{self.name} fp8 needs {need}; this one has {here}")
        if request.gpu.plugins and self.takes_plugins:
            reasons += plugin_refusals()
        if request.gpu.any_gpu and self.builds_without_gpu:
            named = "every GPU that --compute-capability names"
            reasons.append(f"{self.name} engines run on {named}; leave --any-gpu out")
        return reasons + self._check_capabilities(trt, request)

    def _check_capabilities(self, trt: Any, request: EngineRequest) -> list[str]:
        wanted = request.gpu.compute_capabilities
        if not wanted:
            return []
        if not self.builds_without_gpu:
            return [f"{self.name} builds for the GPU at hand; leave --compute-capability out"]
        # The enumeration has SM86 for 8.6 and SM120 for 12.0, and CURRENT for the GPU at hand.
        known = {name[2:-1] + "." + name[-1] for name in trt.ComputeCapability.__members__ if name.startswith("SM")}
        if wrong := [value for value in wanted if value not in known]:
            choices = ", ".join(sorted(known, key=float))
            return [f"--compute-capability must be one of {choices}, got {', '.join(wrong)}"]
        older = [value for value in wanted if float(value) < FP8_SINCE]
        if request.precision == "fp8" and older:
            return [f"fp8 needs --compute-capability {FP8_SINCE} or later, got {', '.join(older)}"]
        return []

    def version(self) -> str:
        """Name the library and its version."""
        return f"{self.module} {importlib.import_module(self.module).__version__}"

    def onnx_precision(self, precision: Precision) -> Precision:
        """Take the file of the same precision, since the engine has that of its file."""
        # TF32 is a way to multiply float32 numbers, and a builder flag.
        return "fp32" if precision == "tf32" else precision

    def build(self, request: BuildRequest, path: Path, progress: Progress) -> None:
        """Write the engine, and beside it what the library made of each layer where there is a GPU to ask."""
        if request.gpu.plugins:
            importlib.import_module("deploy.plugins.registration").register_plugins()  # its import needs TensorRT
            request = replace(request, onnx=path.with_suffix(".plugins.onnx"))
            export_onnx(request.model, request.contract, request.onnx, precision=request.precision, plugins=True)
        if self.builds_without_gpu:
            request = replace(request, timing_cache=None)  # nothing is timed: it compiles at its first use, on the GPU
        trt = importlib.import_module(self.module)
        path.write_bytes(build_plan(trt, request, progress))
        if runner := self.runner(path):
            path.with_suffix(".layers.json").write_text(runner.layers(), encoding="utf-8")

    def runner(self, path: Path) -> PlanRunner | None:
        """Open the engine on this machine's GPU, or return None where there is none or it was built for others."""
        if not self.runs_here:
            return None
        trt = importlib.import_module(self.module)
        if self.builds_without_gpu and OTHER_GPU in invalidity(trt, trt.Runtime(error_log(trt)), path.read_bytes()):
            return None
        return PlanRunner(trt, path)
