"""The ONNX file run by ONNX Runtime: the portable engine, and the check that every export must pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from deploy.engines.base import EngineOutput, Runner


def onnx_runner(path: Path, threads: int) -> Runner:
    """A callable that runs the file on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (model_input,) = session.get_inputs()

    def run(images: NDArray[np.float32]) -> EngineOutput:
        return EngineOutput(*session.run(None, {model_input.name: images}))

    return run


def onnx_version() -> str:
    """The runtime that checks the ONNX file, and its version."""
    return f"onnxruntime {onnxruntime.__version__}"
