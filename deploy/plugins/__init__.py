"""Name the ONNX nodes that stand for the two kernels, and that TensorRT's parser runs as plugins."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

NAMESPACE = "resformer"
ATTENTION, DILATED = f"{NAMESPACE}::window_attention", f"{NAMESPACE}::dilated_fusion"


def name_plugins(program: ExportedProgram) -> ExportedProgram:
    """Replace the kernels' two operators in an exported program with plugin nodes for `torch.onnx.export`."""
    table: dict[Any, Callable[..., Any]] = {
        torch.ops.resformer.window_attention.default: _attention_node,
        torch.ops.resformer.dilated_fusion.default: _dilated_node,
    }
    # A decomposition into a symbolic node reaches the exporter as it is: it has no translation of these operators.
    named: ExportedProgram = program.run_decompositions(table)
    return named


def _attention_node(qkv: Tensor, bias_rows: Tensor, window_size: int, shift_size: int, scale: float) -> Tensor:
    attributes = {"window_size": window_size, "shift_size": shift_size, "scale": scale}
    return _node(ATTENTION, (qkv, bias_rows), attributes, qkv.shape[3] // 3)


def _dilated_node(x: Tensor, taps: Tensor, bias: Tensor, dilations: Sequence[int]) -> Tensor:
    return _node(DILATED, (x, taps, bias), {"dilations": list(dilations)}, taps.shape[2])


def _node(name: str, inputs: Sequence[Tensor], attributes: dict[str, Any], channels: int) -> Tensor:
    """Make a node whose output is a map of `channels`, otherwise like the first input."""
    # TensorRT's parser finds the plugin by its type and these attributes. `aot` asks for its ahead-of-time code.
    lookup: dict[str, Any] = {"plugin_namespace": NAMESPACE, "plugin_version": "1", "aot": 1}
    like = inputs[0]
    return torch.onnx.ops.symbolic(
        name, inputs, {**attributes, **lookup}, dtype=like.dtype, shape=(*like.shape[:3], channels), version=1
    )
