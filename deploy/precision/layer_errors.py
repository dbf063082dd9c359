"""Find the layers that a lower precision hurts, by comparing two ONNX files of one network."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from deploy.export import NAME_SCOPES
from deploy.network.onnx_session import open_session

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
INSPECTED = 4  # images that are enough to order the layers by their errors
WORST = 5  # layers that the message of a refused engine names
TWIN = "_twin"


class LayerError(NamedTuple):
    """Hold the error that one layer adds.

    node: the layer's name in the file.
    module: its name in the network.
    error: |candidate - float32| / |float32| over all its values.
    """

    node: str
    module: str
    error: float


def layer_errors(
    reference: onnx.ModelProto, candidate: onnx.ModelProto, images: NDArray[np.float32]
) -> list[LayerError]:
    """Measure the error that each layer of `candidate` adds by itself over images (N, 3, S, S), the largest first.

    Every layer is computed twice from the activations that the candidate's earlier layers gave: as the candidate does
    it, and in float32 with the reference's weights.
    """
    # Comparing whole networks would name the wrong layers: there an error grows from layer to layer.
    made = {name for node in candidate.graph.node for name in node.output}
    layers = [node for node in reference.graph.node if node.op_type in LAYERS and node.output[0] in made]
    doubled = _with_twins(candidate, layers, {tensor.name: tensor for tensor in reference.graph.initializer})
    # Literal: the runtime's fusions would take FP8's Q/DQ for INT8's.
    session = open_session(doubled.SerializeToString(), literal=True)
    names = [name for node in layers for name in (node.output[0], node.output[0] + TWIN)]
    outputs = dict(zip(names, session.run(names, {session.get_inputs()[0].name: images}), strict=True))
    errors = [_relative(outputs[node.output[0]], outputs[node.output[0] + TWIN]) for node in layers]
    measured = [LayerError(node.name, _module(node), error) for node, error in zip(layers, errors, strict=True)]
    return sorted(measured, key=lambda layer: -layer.error)


def worst_layers(reference: onnx.ModelProto, candidate: onnx.ModelProto, images: NDArray[np.float32]) -> list[str]:
    """Describe the first few of `layer_errors` as "MODULE (relative error)"."""
    return [f"{layer.module} ({layer.error:.1%})" for layer in layer_errors(reference, candidate, images)[:WORST]]


def _with_twins(
    candidate: onnx.ModelProto, layers: Sequence[onnx.NodeProto], weights: Mapping[str, onnx.TensorProto]
) -> onnx.ModelProto:
    """Return a copy of `candidate` that computes `layers` in float32 as well, and outputs both results.

    layers: nodes of the reference, whose activations have the same names in `candidate`.
    weights: constants of the reference by name.
    """
    model = onnx.ModelProto()
    model.CopyFrom(candidate)
    for node in layers:
        for name in node.input:
            if name in weights:
                # One copy for each node: two layers may share a constant.
                model.graph.initializer.add().CopyFrom(weights[name])
                model.graph.initializer[-1].name = f"{name}{TWIN}_{node.name}"
            else:
                cast = helper.make_node("Cast", [name], [f"{name}{TWIN}_{node.name}"], to=onnx.TensorProto.FLOAT)
                model.graph.node.append(cast)
        twin = model.graph.node.add()
        twin.CopyFrom(node)
        twin.name += TWIN
        twin.input[:] = [f"{name}{TWIN}_{node.name}" for name in node.input]
        twin.output[0] += TWIN
        # Without a type: ONNX Runtime infers it, and the candidate's may be a lower one.
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (node.output[0], twin.output[0]))
    return model


def _relative(value: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    error = float(np.linalg.norm(value.astype(np.float64) - exact) / max(float(np.linalg.norm(exact)), 1e-12))
    # NaN has no place in an order. Infinity puts such a layer first.
    return error if np.isfinite(error) else float("inf")


def _module(node: onnx.NodeProto) -> str:
    """Return the module that the exporter noted for a node, or else the node's own name."""
    scopes = [entry.value for entry in node.metadata_props if entry.key == NAME_SCOPES]
    # The note is a list of nested scopes as text. Its last entry is the operation, the one before it the module.
    path = [scope.strip("'") for scope in scopes[0].strip("[]").split(", ")] if scopes else []
    return path[-2].removeprefix("decoded.network.") if len(path) > 1 else str(node.name)
