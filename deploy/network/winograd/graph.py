"""Find the 3x3 convolutions of an OpenVINO graph that have a Winograd form, mark them, and replace the marked ones."""

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops
from openvino.passes import ConstantFolding, Manager

from deploy.network.winograd.library import factory
from deploy.network.winograd.weights import frequencies

# The operator's blocks of channels, of its input and of its output.
C_IN, C_OUT = 16, 32
MARK = "resformer_winograd"  # in the notes of an engine's file


class Shape(NamedTuple):
    """Describe a 3x3 convolution with stride 1, and a padding that keeps the map's size.

    c_out: output channels.
    c_in: input channels.
    side: of its square maps, in pixels.
    dilation: distance of the kernel's taps, in pixels.
    """

    c_out: int
    c_in: int
    side: int
    dilation: int


class Candidate(NamedTuple):
    """Name a convolution that has a Winograd form."""

    node: openvino.Node
    shape: Shape


def candidates(model: openvino.Model) -> Iterator[Candidate]:
    """Yield the convolutions that have a Winograd form here, in the order of the graph."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Convolution":
            continue
        attributes = node.get_attributes()
        c_out, c_in, *kernel = node.input_value(1).get_shape()
        dilation, *_ = dilations = list(attributes["dilations"])
        # The batch is dynamic, so only a partial shape is known.
        side = list(node.input_value(0).get_partial_shape())[2]
        same_size = all(list(attributes[name]) == dilations for name in ("pads_begin", "pads_end"))
        unstrided = set(attributes["strides"]) == {1} and set(dilations) == {dilation}
        if kernel == [3, 3] and same_size and unstrided and not (c_in % C_IN or c_out % C_OUT):
            yield Candidate(node, Shape(c_out, c_in, side.get_length(), dilation))


def mark(model: openvino.Model, names: list[str]) -> None:
    """Note in a graph the names of the convolutions to replace when it is opened."""
    model.set_rt_info(json.dumps(names), MARK)


def marked(model: openvino.Model) -> list[str]:
    """Return the names that `mark` has noted."""
    names: list[str] = json.loads(model.get_rt_info(MARK).astype(str)) if model.has_rt_info(MARK) else []
    return names


def replace(model: openvino.Model, names: list[str]) -> None:
    """Replace convolutions by the operator, each with the bias, the addition and the ReLU behind it.

    Args:
        model: for a batch of one fixed size, changed in place.
        names: of nodes. Those that have no Winograd form here stay.
    """
    # OpenVINO's reader of ONNX files computes the shape of a bias in the graph, from its convolution's output.
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    chosen = [candidate for candidate in candidates(model) if candidate.node.get_friendly_name() in names]
    for node, shape in chosen:
        _replace(node, shape)


def _replace(node: openvino.Node, shape: Shape) -> None:
    last, bias = _with_bias(node, np.zeros(shape.c_out, np.float32))
    last, residual = _with_residual(last)
    relu = False
    if (reader := _only_reader(last)) is not None and reader.get_type_name() == "Relu":
        last, relu = reader, True
    weight = frequencies(np.asarray(node.input_value(1).get_node().data))
    image, *added = (_transpose(value, 0, 2, 3, 1) for value in (node.input_value(0), *residual))
    inputs = [image, ops.constant(weight).output(0), ops.constant(bias).output(0), *added]
    convolution = factory().create("WinogradConvolution", inputs, {"dilation": shape.dilation, "relu": relu})
    # For profiles, which list what ran by its name.
    convolution.set_friendly_name(node.get_friendly_name())
    last.output(0).replace(_transpose(convolution.output(0), 0, 3, 1, 2))


def _with_bias(node: openvino.Node, bias: NDArray[np.float32]) -> tuple[openvino.Node, NDArray[np.float32]]:
    """Return the addition of a constant for each channel behind a node, with that constant, or what was given."""
    for addition, value in _additions(node):
        source = value.get_node()
        if source.get_type_name() == "Constant" and list(value.get_shape()) == [1, len(bias), 1, 1]:
            return addition, np.asarray(source.data, np.float32).reshape(-1)
    return node, bias


def _with_residual(node: openvino.Node) -> tuple[openvino.Node, list[openvino.Output]]:
    """Return the addition of another map of the same shape behind a node, with that map in a list."""
    for addition, value in _additions(node):
        if value.get_partial_shape() == node.output(0).get_partial_shape():
            return addition, [value]
    return node, []


def _additions(node: openvino.Node) -> Iterator[tuple[openvino.Node, openvino.Output]]:
    """Yield the addition that reads nothing of a node but its output, with what is added."""
    reader = _only_reader(node)
    if reader is not None and reader.get_type_name() == "Add":
        own = node.get_friendly_name()
        yield from ((reader, value) for value in reader.input_values() if value.get_node().get_friendly_name() != own)


def _only_reader(node: openvino.Node) -> openvino.Node | None:
    readers = list(node.output(0).get_target_inputs())
    return readers[0].get_node() if len(readers) == 1 else None


def _transpose(value: openvino.Output, *axes: int) -> openvino.Output:
    """Transpose, or return what was transposed where this would only undo that."""
    # Convolution follows convolution, and nothing of OpenVINO's own stands between the two then.
    source = value.get_node()
    if source.get_type_name() == "Transpose":
        order = np.asarray(source.input_value(1).get_node().data)
        if [order[axis] for axis in axes] == list(range(len(axes))):
            return source.input_value(0)
    return ops.transpose(value, ops.constant(np.array(axes, np.int64))).output(0)
