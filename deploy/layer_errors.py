"""Which layers a lower precision hurts: relative errors of layer outputs between two ONNX files of one network."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from deploy.engines.onnx_runtime import open_session
from deploy.export import NAME_SCOPES

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
WORST = 5


class LayerError(NamedTuple):
    """node: its name in the file.  module: its name in the network.  error: |candidate - reference| / |reference|."""

    node: str
    module: str
    error: float


def layer_errors(
    reference: onnx.ModelProto, candidate: onnx.ModelProto, images: NDArray[np.float32]
) -> list[LayerError]:
    """The layers that both files have, those whose own step adds most error first.

    A layer's error is that of its output over `images` (N, 3, S, S), compared with the layer before it in the file:
    errors are carried on, so what counts is where they grow.
    """
    nodes = {node.output[0]: node for node in reference.graph.node if node.op_type in LAYERS}
    shared = [name for node in candidate.graph.node for name in node.output if name in nodes]
    exact, rounded = (_outputs(model, shared, images) for model in (reference, candidate))
    errors = [_relative(rounded[name], exact[name]) for name in shared]
    growth = np.diff(errors, prepend=0.0)
    ordered = [(nodes[shared[i]], errors[i]) for i in np.argsort(-growth)]
    return [LayerError(node.name, _module(node), error) for node, error in ordered]


def worst_layers(reference: onnx.ModelProto, candidate: onnx.ModelProto, images: NDArray[np.float32]) -> list[str]:
    """The first few of `layer_errors`, as "MODULE (relative error)"."""
    return [f"{layer.module} ({layer.error:.1%})" for layer in layer_errors(reference, candidate, images)[:WORST]]


def _outputs(model: onnx.ModelProto, names: list[str], images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Of the named tensors, computed as the file says: fused, some would be gone."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(shown.SerializeToString(), literal=True)
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: images}), strict=True))


def _relative(value: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(value.astype(np.float64) - exact) / max(float(np.linalg.norm(exact)), 1e-12))


def _module(node: onnx.NodeProto) -> str:
    """The module that the exporter noted for the node, else the node's own name."""
    scopes = [entry.value for entry in node.metadata_props if entry.key == NAME_SCOPES]
    path = [scope.strip("'") for scope in scopes[0].strip("[]").split(", ")] if scopes else []
    return path[-2].removeprefix("decoded.network.") if len(path) > 1 else str(node.name)
