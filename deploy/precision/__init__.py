"""Lower the precision of the exported float32 file: one export serves all precisions."""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.engines import Progress, Runner, onnx_runner
from deploy.precision.cast import cast
from deploy.precision.quantize import QUANTIZED, quantize

__all__ = ["QUANTIZED", "lower_precision"]


def lower_precision(
    model: onnx.ModelProto,
    precision: str,
    *,
    task_loss: Callable[[Runner], float],
    calibration: Callable[[], NDArray[np.float32]],
    threads: int,
    progress: Progress,
) -> onnx.ModelProto:
    """Return a copy of a float32 model in a lower precision, between float32 inputs and outputs.

    Args:
        model: exported in float32.
        precision: "fp16", "bf16", "int8" or "fp8".
        task_loss: measures what a runner loses on the task, in units of what it may lose.
        calibration: loads the images (N, 3, S, S) that "int8" and "fp8" take their ranges from.
        threads: of the runs that measure the loss.
        progress: told how the search for layers to keep in float32 goes on.
    """
    if precision not in QUANTIZED:
        return cast(model, precision)

    def loss(candidate: onnx.ModelProto) -> float:
        # Fusions take FP8's Q/DQ for INT8's, so FP8 is computed node by node.
        return task_loss(onnx_runner(candidate.SerializeToString(), threads, literal=precision == "fp8"))

    return quantize(model, precision, calibration(), loss, progress)
