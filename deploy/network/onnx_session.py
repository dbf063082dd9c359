"""Open a network in ONNX Runtime for one image at a time."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

BATCH = "batch"  # the name that an exported file gives its first axis


class OnnxSession:
    """Run a file on ONNX Runtime's CPU provider."""

    def __init__(self, file: Path | bytes, threads: int, *, literal: bool = False) -> None:
        """Open it for one image at a time, with the arguments of `open_session`."""
        # A fixed shape lets the runtime fold what depends on it.
        self._session = open_session(file, threads, literal=literal, batch=1)
        self._input = self._session.get_inputs()[0].name
        self.shapes = {output.name: tuple(output.shape)[1:] for output in self._session.get_outputs()}

    def infer(self, image: NDArray[np.float32], names: Collection[str]) -> Mapping[str, NDArray[np.generic]]:
        """Map (1, 3, S, S) to the named outputs."""
        return dict(zip(names, self._session.run(list(names), {self._input: image}), strict=True))


def open_session(
    file: Path | bytes, threads: int = 0, *, literal: bool = False, batch: int | None = None
) -> onnxruntime.InferenceSession:
    """Open a session on the CPU.

    Args:
        file: an ONNX file or its bytes.
        threads: 0 takes every core.
        literal: compute what the file says, node by node, without the runtime's rewriting.
        batch: fixes the length of a dynamic batch.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Engines and workers share the cores. Without this the threads of an idle one spin through another's time.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # it warns of every float16 constant that it does not fold
    if batch is not None:
        options.add_free_dimension_override_by_name(BATCH, batch)
    if literal:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
