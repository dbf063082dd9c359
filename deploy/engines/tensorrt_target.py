"""TensorRT and TensorRT-RTX: one builder over either module, because their interface is one.

`tensorrt-rtx` builds without a GPU, for any of its compute capabilities; `tensorrt` builds for the GPU it runs on.
Both are strongly typed: the engine's precision is the ONNX file's (TensorRT developer guide, "Strong Typing").
"""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deploy.engines.base import BuildRequest, EngineRequest, Precision, Progress, Runner, Target
from deploy.engines.tensorrt_builder import build_plan, collecting_logger
from deploy.engines.tensorrt_runner import PlanRunner
from deploy.export import export_onnx

FP8_SINCE = 8.9  # compute capability of Ada; the builder compiles nothing for those before


class TensorRtTarget(Target):
    """An engine file of one of the two libraries."""

    suffix = ".engine"
    precisions = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")

    def __init__(self, name: str, module: str, *, builds_without_gpu: bool) -> None:
        self.name, self.module, self.builds_without_gpu = name, module, builds_without_gpu
        self.takes_plugins = not builds_without_gpu  # TensorRT-RTX has no plugin package

    @property
    def runs_here(self) -> bool:
        """Ask for the GPU when it matters: a probe at import would start CUDA in every process."""
        return torch.cuda.is_available()

    def check(self, request: EngineRequest) -> list[str]:
        """Refuse as well where the library or its GPU is missing, or the GPU options do not fit this library."""
        if not self.builds_without_gpu and not self.runs_here:
            return [f"{self.name} builds on the GPU it will run on, and this machine has none; use tensorrt-rtx here"]
        try:
            trt = importlib.import_module(self.module)
        except ImportError as error:
            return [f"{self.name} needs the Python package {self.module} ({error})"]
        reasons = super().check(request)
        if request.precision == "fp8" and self.runs_here:
            here = float("{}.{}".format(*torch.cuda.get_device_capability()))
            if here < FP8_SINCE:
                need = f"a GPU of compute capability {FP8_SINCE} or later"
                reasons.append(f"{self.name} fp8 needs {need}; this one has {here}")
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
        known = {name[2:-1] + "." + name[-1] for name in trt.ComputeCapability.__members__ if name.startswith("SM")}
        if wrong := [value for value in wanted if value not in known]:
            choices = ", ".join(sorted(known, key=float))
            return [f"--compute-capability must be one of {choices}, got {', '.join(wrong)}"]
        older = [value for value in wanted if float(value) < FP8_SINCE]
        if request.precision == "fp8" and older:
            return [f"fp8 needs --compute-capability {FP8_SINCE} or later, got {', '.join(older)}"]
        return []

    def version(self) -> str:
        return f"{self.module} {importlib.import_module(self.module).__version__}"

    def onnx_precision(self, precision: Precision) -> Precision:
        return "fp32" if precision == "tf32" else precision

    def build(self, request: BuildRequest, path: Path, progress: Progress) -> None:
        if request.gpu.plugins:
            importlib.import_module("deploy.plugins.registration")  # registers them, and needs TensorRT
            request = replace(request, onnx=path.with_suffix(".plugins.onnx"))
            export_onnx(request.model, request.contract, request.onnx, precision=request.precision, plugins=True)
        if self.builds_without_gpu:
            request = replace(request, timing_cache=None)  # nothing is timed: it compiles at its first use, on the GPU
        trt = importlib.import_module(self.module)
        path.write_bytes(build_plan(trt, request, progress))
        if self.runs_here:
            path.with_suffix(".layers.json").write_text(PlanRunner(trt, collecting_logger(trt), path).layers())

    def runner(self, path: Path, precision: Precision, threads: int) -> Runner | None:
        if not self.runs_here:
            return None
        trt = importlib.import_module(self.module)
        return PlanRunner(trt, collecting_logger(trt), path)
