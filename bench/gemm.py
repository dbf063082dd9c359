"""Measure what this machine can do at best: one large square product in each precision that engines compute in."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from bench.contenders import check_processor
from deploy.network.onnx_session import open_session
from deploy.verify.turns import Operation, timed

# Large enough that starting a call costs nothing, small enough to repeat in every round.
SIDE = 1024
MULTIPLY_ADDS = SIDE**3
PRECISIONS = ("fp32", "bf16", "int8")


def product(precision: str, threads: int) -> Operation:
    """Return the product of one precision: PyTorch's for floats, ONNX Runtime's for 8 bits.

    Raises UnavailableError for bf16 where the processor has no instructions for it.
    """
    if precision == "int8":
        # ONNX Runtime's own product of 8-bit integers is what its quantised layers come down to.
        session = open_session(_integer_product(), threads)
        activations = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        return timed(lambda: session.run(None, {"left": activations}))
    check_processor(precision)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.rand(SIDE, SIDE).to(kind), torch.rand(SIDE, SIDE).to(kind)
    return timed(lambda: left @ right)


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
