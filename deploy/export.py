"""From the trained network to an ONNX file: fold, decode inside the graph, export, check."""

import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from deploy.contract import Contract
from deploy.errors import BuildError
from deploy.plugins.onnx_nodes import name_plugins
from deploy.simplify import simplify
from model import MultiTaskResFormer
from model.inference import for_inference
from model.network.outputs import Decoded, DecodedNetwork

# At every export it warns that torchvision, which nothing here needs, is not installed.
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
EXPORT_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16}
WIRE_TYPES: dict[int, str] = {onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.UINT8: "UINT8"}


class ExportedNetwork(nn.Module):
    """The folded network at `dtype` between float32 input and outputs: precision is no concern of the caller's."""

    def __init__(self, model: MultiTaskResFormer, dtype: torch.dtype, *, plugins: bool = False) -> None:
        """plugins: call the operators of `kernels` with prepared weights instead of the plain graph."""
        super().__init__()
        self.dtype = dtype
        # Folded in float32 and cast last: casting first would round the batch norms' small variances.
        network = for_inference(model, "triton") if plugins else simplify(model)
        self.decoded = DecodedNetwork(network).to(dtype)
        self.eval()

    def forward(self, image: Tensor) -> Decoded:
        """(B, 3, S, S) float32 to `Decoded`, probabilities float32."""
        mask, class_probs, seg_probs = self.decoded(image.to(self.dtype))
        return Decoded(mask, class_probs.float(), seg_probs.float())


def export_onnx(
    model: MultiTaskResFormer, contract: Contract, path: Path, *, precision: str = "fp32", plugins: bool = False
) -> None:
    """Write `model` as an ONNX file with the contract's names.

    A `max_batch` of 1 gives a static batch, more a dynamic one. Plugin nodes need a static one.
    Raises BuildError where the file breaks ONNX's own rules or the contract.
    """
    network = ExportedNetwork(model, EXPORT_DTYPES[precision], plugins=plugins)
    # Two images: an example of one would make torch.export specialise the batch.
    example = torch.zeros(min(2, contract.max_batch), *contract.network_input.shape)
    batch = torch.export.Dim("batch", min=1, max=contract.max_batch) if contract.max_batch > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the exporter's own use of what torch deprecates
        program = torch.onnx.export(
            name_plugins(torch.export.export(network, (example,))) if plugins else network,
            (example,),
            input_names=[contract.network_input.name],
            output_names=[output.name for output in contract.outputs],
            dynamic_shapes=({0: batch},) if batch else None,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    onnx.save(_without_traces(program.model_proto), path)
    check_onnx(path, contract)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the exporter's notes of source lines, which name folders of this machine; module names stay."""
    for node in model.graph.node:
        scopes = [entry.value for entry in node.metadata_props if entry.key == NAME_SCOPES]
        del node.metadata_props[:]
        if scopes:
            node.metadata_props.add(key=NAME_SCOPES, value=scopes[0])
    return model


def check_onnx(path: Path, contract: Contract) -> None:
    """Raises BuildError unless the file passes ONNX's checker and has exactly the contract's tensors."""
    model = onnx.load(path)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(f"{path.name} breaks the ONNX rules: {error}") from None
    found = [_signature(value) for value in (*model.graph.input, *model.graph.output)]
    expected = [(spec.name, spec.dtype, spec.shape) for spec in (contract.network_input, *contract.outputs)]
    if found != expected:
        raise BuildError(f"{path.name} must have the tensors {expected}, got {found}")


def _signature(value: onnx.ValueInfoProto) -> tuple[str, str, tuple[int, ...]]:
    """Name, the server's name of the type, and shape without the batch."""
    tensor = value.type.tensor_type
    name = WIRE_TYPES.get(int(tensor.elem_type), "other")
    return value.name, name, tuple(dim.dim_value for dim in tensor.shape.dim[1:])
