"""Lower precisions of the exported float32 file: one export serves them all."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from deploy.engines import onnx_runner
from deploy.gate import TASK_TOLERANCE, task_changes
from deploy.lower import lower
from deploy.quantize import quantize
from deploy.verify import Samples, run_all

SCORED = 64  # images that the search for sensitive layers looks at; the gate looks at all


def derive(
    model: onnx.ModelProto, precision: str, samples: Samples, calibration: Callable[[], Samples], threads: int
) -> onnx.ModelProto:
    """`model` at "fp16", "bf16" or "int8"; int8 takes its ranges from `calibration()` and is searched on `samples`."""
    if precision != "int8":
        return lower(model, precision)
    few = samples.first(SCORED)
    reference = run_all(onnx_runner(model.SerializeToString(), threads), few, 1)

    def loss(candidate: onnx.ModelProto) -> float:
        """What it loses on the task, in units of Dice: the larger of the two losses, each against its tolerance."""
        assert few.truth is not None
        output = run_all(onnx_runner(candidate.SerializeToString(), threads), few, 1)
        changes = task_changes(reference, output, few.truth)
        return max(-changes[name].value * TASK_TOLERANCE["dice"] / limit for name, limit in TASK_TOLERANCE.items())

    return quantize(model, calibration().images, loss if few.truth else None, TASK_TOLERANCE["dice"])
