"""Build a plan with TensorRT or TensorRT-RTX: parse the ONNX file, check it, configure the builder, build.

Both libraries have the same interface, so every function here takes the library's module as `trt`.
"""

from typing import Any

from data_pipeline.files import write_whole
from deploy.contract import Contract
from deploy.engines.base import BuildRequest, Progress
from deploy.engines.tensorrt_runner import check_plan
from deploy.errors import BuildError


def build_plan(trt: Any, request: BuildRequest, progress: Progress) -> memoryview:
    """Build the engine of a request and return its bytes.

    Raises BuildError with every message that the library gave.
    """
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
    # The library reports a failure by returning None, and its reasons only to the logger.
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"the builder gave no engine: {'; '.join(logger.errors) or 'it gave no reason'}")
    if request.timing_cache:
        write_whole(request.timing_cache, bytes(config.get_timing_cache().serialize()))
    check_plan(trt, trt.Runtime(logger), memoryview(plan), "the engine just built")
    return memoryview(plan)


def collecting_logger(trt: Any) -> Any:
    """Make a logger that keeps errors in a list for the message of an exception instead of printing them."""

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        """Keep errors."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Keep an error and drop everything else."""
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return CollectingLogger()


def _describe(error: Any) -> str:
    return f"{error.node_operator()} node {error.node_name()}: {error.desc()}"


def _check_tensors(network: Any, contract: Contract) -> None:
    """Raise BuildError unless the parsed network has exactly the contract's tensors."""
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    actual = [(tensor.name, tuple(tensor.shape)[1:]) for tensor in tensors]
    expected = [(spec.name, spec.shape) for spec in (contract.network_input, *contract.outputs)]
    if actual != expected:
        raise BuildError(f"the parsed network must have the tensors {expected}, got {actual}")


def _configuration(trt: Any, builder: Any, request: BuildRequest) -> Any:
    """Configure the builder: the batches to expect, the GPUs to build for, and how hard to try."""
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
        # A cache of another GPU or version is refused. The build then times everything again.
        if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    _set_compute_capabilities(trt, config, request.gpu.compute_capabilities)
    return config


def _batch_profile(builder: Any, contract: Contract) -> Any:
    """Expect batches of 1 to max_batch."""
    profile = builder.create_optimization_profile()
    spec = contract.network_input
    # The middle shape is the one that is tuned for: a single image is the request that someone waits for.
    profile.set_shape(spec.name, (1, *spec.shape), (1, *spec.shape), (contract.max_batch, *spec.shape))
    return profile


def _set_compute_capabilities(trt: Any, config: Any, wanted: tuple[str, ...]) -> None:
    if not wanted:
        return  # the library's default: Ampere and later
    # The number comes first, and then every index must be set.
    config.num_compute_capabilities = len(wanted)
    for index, value in enumerate(wanted):
        config.set_compute_capability(trt.ComputeCapability.__members__["SM" + value.replace(".", "")], index)


def progress_monitor(trt: Any, progress: Progress) -> Any:
    """Make a monitor that reports the outermost phase under way.

    See "Monitoring the build" in the TensorRT developer guide.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Follow the outermost phases: inner ones come and go too quickly to be read."""

        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            """Remember how many steps an outermost phase has."""
            if parent is None:
                self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            """Report the step, and return True to let the build go on."""
            if phase in self.steps:
                progress(phase, (step + 1) / max(self.steps[phase], 1))
            return True

        def phase_finish(self, phase: str) -> None:
            """Report the phase as done: its last step need not be reported."""
            if self.steps.pop(phase, None):
                progress(phase, 1.0)

    return Monitor()
