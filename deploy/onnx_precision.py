"""Lower precisions of the exported float32 file: one export serves them all."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from deploy.engines import Runner, onnx_runner
from deploy.engines.base import Progress
from deploy.lower import lower
from deploy.quantize import QUANTIZED, quantize
from deploy.verify import Samples


def derive(
    model: onnx.ModelProto,
    precision: str,
    loss: Callable[[Runner], float],
    calibration: Callable[[], Samples],
    threads: int,
    progress: Progress,
) -> onnx.ModelProto:
    """`model` at "fp16", "bf16", "int8" or "fp8"; the last two take their ranges from `calibration()`.

    loss: what a runner loses on the task, in units of what it may lose (`Judge.loss`).
    """
    if precision not in QUANTIZED:
        return lower(model, precision)

    def lost(candidate: onnx.ModelProto) -> float:
        return loss(onnx_runner(candidate.SerializeToString(), threads, literal=precision == "fp8"))

    return quantize(model, precision, calibration().images, lost, progress)
