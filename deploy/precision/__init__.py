"""Lower the precision of the exported float32 file: one export serves all precisions."""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from deploy.engines import ONNX, QUANTIZED, Progress, Runner, cpu_runner, execution
from deploy.precision.quantize import quantize

__all__ = ["lower_precision"]

ELEMENT_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# Operators that stay float32 between casts: TensorRT-RTX 1.7 has no bfloat16 transposed convolution.
FLOAT32_ISLANDS = {"fp16": frozenset[str](), "bf16": frozenset({"ConvTranspose"})}
# Convolutions take bfloat16 from this version of the operator set on.
OPSET = {"bf16": 22}
# Inputs by index that are float32 whatever the type of the image: Resize reads its region and its factors from them
# (ONNX operator specification).
FLOAT32_INPUTS = {"Resize": (1, 2)}


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
        precision: "fp16", "bf16", "int8", "mixed" or "fp8".
        task_loss: measures what a runner loses on the task, in units of what it may lose.
        calibration: loads the images (N, 3, S, S) that quantised precisions take their ranges from.
        threads: of the runs that measure the loss.
        progress: told how the search for layers to keep in float32 goes on.
    """
    if precision not in QUANTIZED:
        return cast(model, precision)

    computed = execution(ONNX, precision)
    assert computed is not None

    def loss(candidate: onnx.ModelProto) -> float:
        return task_loss(cpu_runner(candidate.SerializeToString(), computed, threads))

    return quantize(model, precision, calibration(), loss, progress)


def cast(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """Return a copy that computes in "fp16" or "bf16" between float32 inputs and outputs."""
    # Strongly typed builders (TensorRT, TensorRT-RTX) take the precision from the file. They choose the type of sums
    # themselves, and layer norms keep theirs in float32 (`stash_type`).
    element = ELEMENT_TYPES[precision]
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    graph = lowered.graph
    lowered.opset_import[0].version = max(lowered.opset_import[0].version, OPSET.get(precision, 0))
    islands = FLOAT32_ISLANDS[precision]
    kept = {name for node in graph.node for name in _float32_inputs(node, islands)}
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _convert(tensor, element)
    for node in graph.node:
        _convert_attributes(node, element)
    del graph.value_info[:]  # of the old types, which the checker infers again
    _cast_around_islands(graph, islands, element)
    _cast_at_the_border(graph, element)
    return lowered


def _float32_inputs(node: onnx.NodeProto, islands: frozenset[str]) -> list[str]:
    """List the inputs of a node whose constants stay float32."""
    if node.op_type in islands:
        return list(node.input[1:])  # its weights, because the first input is an activation, which is cast
    return [node.input[index] for index in FLOAT32_INPUTS.get(node.op_type, ()) if index < len(node.input)]


def _convert(tensor: onnx.TensorProto, element: int) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(element))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _convert_attributes(node: onnx.NodeProto, element: int) -> None:
    """Convert the constants inside a node, and the target of the graph's own casts to float32."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _convert(attribute.t, element)
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = element


def _cast_around_islands(graph: onnx.GraphProto, islands: frozenset[str], element: int) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type not in islands:
            nodes.append(node)
            continue
        # The outer names stay as they are, so that no other node has to be changed.
        source, target = node.input[0], node.output[0]
        node.input[0], node.output[0] = f"{target}_float32_input", f"{target}_float32"
        nodes += [
            _cast_node(source, node.input[0], TensorProto.FLOAT),
            node,
            _cast_node(node.output[0], target, element),
        ]
    # A repeated field of protobuf cannot be assigned.
    del graph.node[:]
    graph.node.extend(nodes)


def _cast_at_the_border(graph: onnx.GraphProto, element: int) -> None:
    """Cast float inputs once after their name and float outputs once before theirs."""
    inner = {value.name: f"{value.name}_lowered" for value in (*graph.input, *graph.output) if _is_float(value)}
    for node in graph.node:
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
    before = [_cast_node(v.name, inner[v.name], element) for v in graph.input if v.name in inner]
    after = [_cast_node(inner[v.name], v.name, TensorProto.FLOAT) for v in graph.output if v.name in inner]
    # ONNX wants nodes in the order of computation.
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _cast_node(source: str, target: str, element: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=element)
