"""Which layers a lower precision hurts: relative errors of layer outputs between two ONNX files of one network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from deploy.export import NAME_SCOPES

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
WORST = 5


def worst_layers(reference: Path, candidate: Path, images: NDArray[np.float32]) -> list[str]:
    """The layers whose own step adds most error, worst first, as "NAME (relative error)".

    A layer's error is |candidate - reference| / |reference| of its output over `images` (N, 3, S, S), compared with
    the layer before it in the file: errors are carried on, so what counts is where they grow.
    """
    names = {node.output[0]: _readable(node) for node in onnx.load(reference).graph.node if node.op_type in LAYERS}
    shared = [name for node in onnx.load(candidate).graph.node for name in node.output if name in names]
    exact, rounded = (_outputs(path, shared, images) for path in (reference, candidate))
    errors = [_relative(rounded[name], exact[name]) for name in shared]
    growth = np.diff(errors, prepend=0.0)
    return [f"{names[shared[i]]} ({errors[i]:.1%})" for i in np.argsort(-growth)[:WORST]]


def _outputs(path: Path, names: list[str], images: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    model = onnx.load(path)
    for name in names:
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: images}), strict=True))


def _relative(value: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(value.astype(np.float64) - exact) / max(float(np.linalg.norm(exact)), 1e-12))


def _readable(node: onnx.NodeProto) -> str:
    """The module that the exporter noted for the node, else the node's own name."""
    scopes = [entry.value for entry in node.metadata_props if entry.key == NAME_SCOPES]
    path = [scope.strip("'") for scope in scopes[0].strip("[]").split(", ")] if scopes else []
    return path[-2].removeprefix("decoded.network.") if len(path) > 1 else node.name
