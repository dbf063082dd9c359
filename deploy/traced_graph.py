"""Trace a network into an ONNX graph whose weights are inputs, keep it, and fill weights in.

Tracing takes most of an export's time and depends on the network's structure alone. Whatever looks at the value of a
weight (the exporter's own passes join equal tensors and drop a bias of zeros) waits until the graph is filled, so that
a graph that was traced with one set of weights is right for every other.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from torch import Tensor
from torch.onnx import ONNXProgram

from data_pipeline.files import write_whole

DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class GraphCache:
    """Keep one traced graph in a file.

    file: where it is.
    key: fingerprint of everything but the weights that the graph depends on.
    """

    file: Path
    key: str

    def read(self) -> onnx.ModelProto | None:
        """Return the graph, or None where there is none, a damaged one or that of another structure."""
        try:
            data = self.file.read_bytes()
        except OSError:
            return None
        digest, content = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
        return onnx.load_model_from_string(content) if digest == self._digest(content) else None

    def write(self, graph: onnx.ModelProto) -> None:
        """Replace the graph. Raises OSError where it cannot be written."""
        content = graph.SerializeToString()
        write_whole(self.file, self._digest(content) + content)

    def _digest(self, content: bytes) -> bytes:
        return hashlib.sha256(self.key.encode() + content).digest()


def without_weights(program: ONNXProgram, weights: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Turn the weights of an exported program into inputs of its graph, and simplify what does not depend on them.

    Args:
        program: exported without optimisation.
        weights: by the names that the exporter gave them. Only the floating-point ones become inputs: the others
            (indices, regions of a mask) are the network's structure.
    """
    # Imported where it is used, here and below: it takes half a second, which a build of nothing new must not wait for.
    from onnxscript import optimizer

    graph = program.model.graph
    for name, weight in weights.items():
        # One that the graph does not use is not among them.
        if weight.is_floating_point() and name in graph.initializers:
            value = graph.initializers.pop(name)
            value.const_value = None
            graph.inputs.append(value)
    optimizer.optimize_ir(program.model)
    return program.model_proto


def filled(traced: onnx.ModelProto, weights: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Return a traced graph with its weights, and fold what depends on them alone, such as transposed matrices."""
    from onnxscript import ir, optimizer

    model = ir.from_proto(traced)
    for value in list(model.graph.inputs):
        if (weight := weights.get(value.name or "")) is not None:
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(weight.numpy(), name=value.name)
            model.graph.register_initializer(value)
    optimizer.fold_constants(model)
    for simplify in (
        ir.passes.common.RemoveUnusedNodesPass(),
        ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        ir.passes.common.DeduplicateInitializersPass(),
    ):
        simplify(model)
    proto: onnx.ModelProto = ir.to_proto(model)
    return proto
