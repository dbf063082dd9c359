"""Compile a network with OpenVINO for one image at a time."""

import logging
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from deploy.network import winograd


@cache
def core() -> openvino.Core:
    """Return the process's only `Core`."""
    # OpenVINO 2026.4 gives the thread another signal stack when a `Core` first compiles for a CPU, and restores the
    # previous one when that `Core` is destroyed. Two whose lives overlap leave a stack that was freed, and Ctrl-C is
    # then a segmentation fault.
    return openvino.Core()


def read_model(file: Path | bytes, weights: bytes = b"") -> openvino.Model:
    """Read an `.xml` or `.onnx` file, or its bytes, which for an `.xml` need those of its `.bin`."""
    # Not `openvino.convert_model`, which tells an analytics host of each conversion.
    return core().read_model(file, weights) if isinstance(file, bytes) else core().read_model(file)


def compile_model(
    model: openvino.Model, computed: str, threads: int, *, profiled: bool = False
) -> openvino.CompiledModel:
    """Compile for one image at a time, with Winograd's form of the convolutions that the file marks.

    Args:
        model: with a batch of any length.
        computed: the type of everything that is not quantised ("f32", "bf16").
        threads: 0 takes every core.
        profiled: whether requests know the time of each layer, at some cost in speed.
    """
    # At a static shape OpenVINO 2026.4 computes the labels' quantised linear layer wrongly on processors with VNNI or
    # AMX, not with AVX2 alone. A graph of that layer by itself is right; the cause is not known.
    if not any(map(_is_quantized_product, model.get_ops())):
        image = model.input().partial_shape
        image[0] = 1
        model.reshape(image)
    # The form is float32's. A file marks what was timed in float32, and may be opened in another type all the same.
    if computed == "f32" and (names := winograd.marked(model)):
        if reason := winograd.reason_against():
            form = f"{len(names)} convolutions that were faster in Winograd's form run in OpenVINO's own"
            logging.getLogger(__name__).warning("%s: %s", form, reason)
        else:
            winograd.replace(model, names)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Without it the plugin takes bf16 for float32 where the processor has it.
        "INFERENCE_PRECISION_HINT": computed,
        # Pinned, the threads of every worker of a server would share the same first cores.
        "ENABLE_CPU_PINNING": False,
        "PERF_COUNT": profiled,
    }
    return core().compile_model(model, "CPU", settings)


def _is_quantized_product(node: openvino.Node) -> bool:
    """Tell whether a node is a matrix product of values that were quantised."""
    if node.get_type_name() != "MatMul":
        return False
    source = node.input_value(0).get_node()
    # A file spells a quantiser as FakeQuantize, or as the steps of an ONNX file's Q/DQ nodes.
    while source.get_type_name() in ("Multiply", "Subtract", "Reshape", "Transpose"):
        source = source.input_value(0).get_node()
    return source.get_type_name() in ("FakeQuantize", "Convert")


class OpenVinoSession:
    """Run a file in OpenVINO's CPU plugin."""

    def __init__(self, file: Path | bytes, computed: str, threads: int, weights: bytes = b"") -> None:
        """Compile it, with the arguments of `read_model` and `compile_model`."""
        compiled = compile_model(read_model(file, weights), computed, threads)
        # All lengths but the batch are fixed.
        self.shapes = {
            output.any_name: tuple(length.get_length() for length in list(output.partial_shape)[1:])
            for output in compiled.outputs
        }
        self._request = compiled.create_infer_request()

    def infer(self, image: NDArray[np.float32], names: Collection[str]) -> Mapping[str, NDArray[np.generic]]:
        """Map (1, 3, S, S) to all outputs, as views of OpenVINO's memory."""
        results = self._request.infer({0: image}, share_inputs=True, share_outputs=True)
        return {name: results[name] for name in names}
