"""Measure what this machine can do at best: one large square product in each precision that engines compute in."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from deploy.network.onnx_session import open_session
from deploy.network.openvino_session import core

# Large enough that starting a call costs nothing, small enough to repeat in every round.
SIDE = 1024
MULTIPLY_ADDS = SIDE**3


def products(threads: int) -> Mapping[str, Callable[[], object]]:
    """Return the product of each precision: PyTorch's for floats, ONNX Runtime's for 8 bits.

    bf16 is there only where the processor has it.
    """
    left, right = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    # ONNX Runtime's own product of 8-bit integers is what its quantised layers come down to.
    session = open_session(_integer_product(), threads)
    activations = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    by_precision: dict[str, Callable[[], object]] = {
        "fp32": lambda: left @ right,
        "int8": lambda: session.run(None, {"left": activations}),
    }
    if "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        short_left, short_right = left.bfloat16(), right.bfloat16()
        by_precision["bf16"] = lambda: short_left @ short_right
    return by_precision


def best_seconds(product: Callable[[], object]) -> float:
    """Return the shortest time of five calls, which every round of a benchmark takes once."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    # The shortest, not the median: what else the machine does only makes a call longer, and a bound on speed is wanted.
    return min(times)


def _integer_product() -> bytes:
    """Build a model that multiplies unsigned activations by signed weights, as ONNX Runtime's quantised layers do."""
    weights = np.random.default_rng(1).integers(-128, 128, (SIDE, SIDE), dtype=np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.UINT8, (SIDE, SIDE))],
        [helper.make_tensor_value_info("product", TensorProto.INT32, (SIDE, SIDE))],
        # A constant, so that the runtime may pack it in advance as it packs an engine's weights.
        [numpy_helper.from_array(weights, "right")],
    )
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()
