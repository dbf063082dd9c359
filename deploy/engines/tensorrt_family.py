"""TensorRT and TensorRT-RTX: one builder over either module, because their interface is one.

`tensorrt-rtx` builds without a GPU, for any of its compute capabilities; `tensorrt` builds for the GPU it runs on.
Both are strongly typed: the engine's precision is the ONNX file's (TensorRT developer guide, "Strong Typing").
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from deploy.contract import Contract
from deploy.engines.base import BuildRequest, GpuOptions, Precision, Progress, Runner, Target
from deploy.engines.tensorrt_plan import check_plan
from deploy.engines.tensorrt_progress import progress_monitor
from deploy.engines.tensorrt_run import PlanRunner
from deploy.errors import BuildError
from deploy.export import export_onnx
from deploy.files import write_atomically

FP8_SINCE = 8.9  # compute capability of Ada; the builder compiles nothing for those before


class TensorRtTarget(Target):
    """An engine file of one of the two libraries."""

    suffix = ".engine"
    precisions = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")

    def __init__(self, name: str, module: str, *, builds_without_gpu: bool) -> None:
        self.name, self.module, self.builds_without_gpu = name, module, builds_without_gpu
        self.takes_plugins = not builds_without_gpu  # TensorRT-RTX has no plugin package
        self.runs_here = torch.cuda.is_available()

    def unavailable(self) -> str | None:
        if not self.builds_without_gpu and not torch.cuda.is_available():
            return f"{self.name} builds on the GPU it will run on, and this machine has none; use tensorrt-rtx here"
        try:
            importlib.import_module(self.module)
        except ImportError as error:
            return f"{self.name} needs the Python package {self.module} ({error})"
        return None

    def version(self) -> str:
        return f"{self.module} {importlib.import_module(self.module).__version__}"

    def refuses(self, precision: Precision) -> str | None:
        if precision == "fp8" and self.runs_here:
            here = float("{}.{}".format(*torch.cuda.get_device_capability()))
            if here < FP8_SINCE:
                return f"{self.name} fp8 needs a GPU of compute capability {FP8_SINCE} or later; this one has {here}"
        return super().refuses(precision)

    def refuses_gpu(self, options: GpuOptions, precision: Precision) -> str | None:
        if options.any_gpu and self.builds_without_gpu:
            return f"{self.name} engines run on every GPU that --compute-capability names; leave --any-gpu out"
        if not options.compute_capabilities:
            return None
        if not self.builds_without_gpu:
            return f"{self.name} builds for the GPU at hand; leave --compute-capability out"
        trt = importlib.import_module(self.module)
        known = {name[2:-1] + "." + name[-1] for name in trt.ComputeCapability.__members__ if name.startswith("SM")}
        wrong = [value for value in options.compute_capabilities if value not in known]
        if wrong:
            return f"--compute-capability must be one of {', '.join(sorted(known, key=float))}, got {', '.join(wrong)}"
        older = [value for value in options.compute_capabilities if float(value) < FP8_SINCE]
        if precision == "fp8" and older:
            return f"fp8 needs --compute-capability {FP8_SINCE} or later, got {', '.join(older)}"
        return None

    def onnx_precision(self, precision: Precision) -> Precision:
        return "fp32" if precision == "tf32" else precision

    def build(self, request: BuildRequest, path: Path, progress: Progress) -> None:
        if request.gpu.plugins:
            importlib.import_module("deploy.plugins_tensorrt")  # registers them, and needs TensorRT
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


def build_plan(trt: Any, request: BuildRequest, progress: Progress) -> memoryview:
    """Parse, check, configure, build; raises BuildError with every message the library gave."""
    logger = collecting_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(request.onnx)):
        reasons = "; ".join(_describe(parser.get_error(index)) for index in range(parser.num_errors))
        raise BuildError(f"{request.onnx.name} could not be parsed: {reasons}")
    _check_tensors(network, request.contract)
    config = _configuration(trt, builder, request)
    config.progress_monitor = progress_monitor(trt, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"the builder gave no engine: {'; '.join(logger.errors) or 'it gave no reason'}")
    if request.timing_cache:
        write_atomically(request.timing_cache, bytes(config.get_timing_cache().serialize()))
    check_plan(trt, trt.Runtime(logger), memoryview(plan), "the engine just built")
    return memoryview(plan)


def _configuration(trt: Any, builder: Any, request: BuildRequest) -> Any:
    """What is the same for every network: the profile, the GPUs to build for, and how hard to try."""
    config = builder.create_builder_config()
    config.add_optimization_profile(_batch_profile(builder, request.contract))
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names and tactics for the report of layers
    if request.precision != "tf32":
        config.clear_flag(trt.BuilderFlag.TF32)  # set by default, although it rounds what fp32 multiplies to 10 bits
    if request.gpu.any_gpu:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if request.gpu.optimization_level is not None:
        config.builder_optimization_level = request.gpu.optimization_level
    if request.timing_cache:
        known = request.timing_cache.read_bytes() if request.timing_cache.exists() else b""
        # One of another GPU or version is turned down, and the build times everything anew.
        if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    _set_compute_capabilities(trt, config, request.gpu.compute_capabilities)
    return config


def _describe(error: Any) -> str:
    return f"{error.node_operator()} node {error.node_name()}: {error.desc()}"


def collecting_logger(trt: Any) -> Any:
    """A logger that keeps errors for the message of the exception instead of printing them."""

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return CollectingLogger()


def _check_tensors(network: Any, contract: Contract) -> None:
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    found = [(tensor.name, tuple(tensor.shape)[1:]) for tensor in tensors]
    expected = [(spec.name, spec.shape) for spec in (contract.network_input, *contract.outputs)]
    if found != expected:
        raise BuildError(f"the parsed network must have the tensors {expected}, got {found}")


def _batch_profile(builder: Any, contract: Contract) -> Any:
    """Batches from 1 to max_batch, tuned for 1: a single image is the request that someone waits for."""
    profile = builder.create_optimization_profile()
    spec = contract.network_input
    profile.set_shape(spec.name, (1, *spec.shape), (1, *spec.shape), (contract.max_batch, *spec.shape))
    return profile


def _set_compute_capabilities(trt: Any, config: Any, wanted: tuple[str, ...]) -> None:
    if not wanted:
        return  # the library's default: Ampere and later
    config.num_compute_capabilities = len(wanted)
    for index, value in enumerate(wanted):
        config.set_compute_capability(trt.ComputeCapability.__members__["SM" + value.replace(".", "")], index)
