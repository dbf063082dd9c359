"""Which layers a lower precision hurts, of two ONNX files of one network."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from deploy.engines.onnx_runtime import open_session
from deploy.export import NAME_SCOPES

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
WORST = 5
TWIN = "_twin"


class LayerError(NamedTuple):
    """node: its name in the file.  module: its name in the network.  error: |candidate - float32| / |float32|."""

    node: str
    module: str
    error: float


def layer_errors(
    reference: onnx.ModelProto, candidate: onnx.ModelProto, images: NDArray[np.float32]
) -> list[LayerError]:
    """What each layer of `candidate` adds of its own over `images` (N, 3, S, S), the largest error first.

    Every layer is computed twice from what the candidate's layers before it gave: as the candidate does, and in float32
    with the reference's weights.
    """
    made = {name for node in candidate.graph.node for name in node.output}
    layers = [node for node in reference.graph.node if node.op_type in LAYERS and node.output[0] in made]
    doubled = _with_twins(candidate, layers, {tensor.name: tensor for tensor in reference.graph.initializer})
    session = open_session(doubled.SerializeToString(), literal=True)
    names = [name for node in layers for name in (node.output[0], node.output[0] + TWIN)]
    outputs = dict(zip(names, session.run(names, {session.get_inputs()[0].name: images}), strict=True))
    errors = [_relative(outputs[node.output[0]], outputs[node.output[0] + TWIN]) for node in layers]
    found = [LayerError(node.name, _module(node), error) for node, error in zip(layers, errors, strict=True)]
    return sorted(found, key=lambda layer: -layer.error)


def worst_layers(reference: onnx.ModelProto, candidate: onnx.ModelProto, images: NDArray[np.float32]) -> list[str]:
    """The first few of `layer_errors`, as "MODULE (relative error)"."""
    return [f"{layer.module} ({layer.error:.1%})" for layer in layer_errors(reference, candidate, images)[:WORST]]


def _with_twins(
    candidate: onnx.ModelProto, layers: Sequence[onnx.NodeProto], weights: Mapping[str, onnx.TensorProto]
) -> onnx.ModelProto:
    """A copy that also computes `layers`, nodes of the reference, from its own activations; both results are shown."""
    model = onnx.ModelProto()
    model.CopyFrom(candidate)
    for node in layers:
        for name in node.input:
            if name in weights:
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
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (node.output[0], twin.output[0]))
    return model


def _relative(value: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    error = float(np.linalg.norm(value.astype(np.float64) - exact) / max(float(np.linalg.norm(exact)), 1e-12))
    return error if np.isfinite(error) else float("inf")


def _module(node: onnx.NodeProto) -> str:
    """The module that the exporter noted for the node, else the node's own name."""
    scopes = [entry.value for entry in node.metadata_props if entry.key == NAME_SCOPES]
    path = [scope.strip("'") for scope in scopes[0].strip("[]").split(", ")] if scopes else []
    return path[-2].removeprefix("decoded.network.") if len(path) > 1 else str(node.name)
