"""Build a plan with TensorRT or TensorRT-RTX: parse the ONNX file, check it, configure the builder, build.

Both libraries have the same interface, so every function here takes the library's module as `trt`.
"""

from typing import Any

from data_pipeline.files import write_whole
from deploy.contract import Contract
from deploy.engines.base import BuildRequest, Progress
from deploy.engines.tensorrt_log import error_log
from deploy.engines.tensorrt_runner import OF_THE_FILE, check_plan
from deploy.errors import BuildError


def build_plan(trt: Any, request: BuildRequest, progress: Progress) -> memoryview:
    """Build the engine of a request and return its bytes.

    Raises BuildError with every message that the library gave.
    """
    logger = error_log(trt)
    logger.take_errors()  # those of an earlier engine say nothing about this one
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
        raise BuildError(f"the builder gave no engine: {logger.take_errors()}")
    if request.timing_cache:
        write_whole(request.timing_cache, bytes(config.get_timing_cache().serialize()))
    # It may be for a GPU that is not this machine's.
    check_plan(trt, trt.Runtime(logger), memoryview(plan), "the engine just built", OF_THE_FILE)
    return memoryview(plan)


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
    for largest in batch_profiles(request.contract.max_batch):
        config.add_optimization_profile(_profile(builder, request.contract, largest))
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names and tactics for the report of layers
    if request.precision != "tf32":
        config.clear_flag(trt.BuilderFlag.TF32)  # set by default, although it rounds what fp32 multiplies to 10 bits
    if request.gpu.any_gpu:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if request.gpu.optimization_level is not None:
        config.builder_optimization_level = request.gpu.optimization_level
    if request.timing_cache:
        known = request.timing_cache.read_bytes() if request.timing_cache.exists() else b""
        _set_timing_cache(config, known)
    _set_compute_capabilities(trt, config, request.gpu.compute_capabilities)
    return config


def _set_timing_cache(config: Any, known: bytes) -> None:
    """Let a build take its measurements from those of an earlier one."""
    # A cache that is damaged cannot be created, and one of another GPU or version is refused. The build then times
    # everything again.
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def batch_profiles(max_batch: int) -> tuple[int, ...]:
    """Return the largest batch of each optimization profile, which is the one that it is tuned for."""
    # A single image is the request that someone waits for, a full batch is what a busy server runs.
    return (1,) if max_batch == 1 else (1, max_batch)


def _profile(builder: Any, contract: Contract, largest: int) -> Any:
    """Expect batches of 1 to `largest`."""
    profile, spec = builder.create_optimization_profile(), contract.network_input
    profile.set_shape(spec.name, (1, *spec.shape), (largest, *spec.shape), (largest, *spec.shape))
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
