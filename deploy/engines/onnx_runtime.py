"""Run the ONNX file in ONNX Runtime: the portable engine, and the check that every export must pass."""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from deploy.engines.base import EngineOutput, Runner


def onnx_runner(model: Path | bytes, threads: int, *, literal: bool = False) -> Runner:
    """Open an ONNX file, or its bytes, as an engine on the CPU, with the arguments of `open_session`."""
    session = open_session(model, threads, literal=literal)
    (model_input,) = session.get_inputs()

    def run(images: NDArray[np.float32]) -> EngineOutput:
        return EngineOutput(*session.run(None, {model_input.name: images}))

    return run


def open_session(model: Path | bytes, threads: int = 0, *, literal: bool = False) -> onnxruntime.InferenceSession:
    """Open a session on the CPU.

    Args:
        model: an ONNX file or its bytes.
        threads: 0 is every core.
        literal: compute what the file says, node by node. FP8 needs it: the runtime's fusions take its Q/DQ for INT8's.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Engines take turns on the same cores. Without this the idle one's threads spin through the other's time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # it warns of every float16 constant that it does not fold
    if literal:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_version() -> str:
    """Name the runtime that checks the ONNX file, and its version."""
    return f"onnxruntime {onnxruntime.__version__}"
