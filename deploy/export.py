"""Export the trained network to an ONNX file: fold it, decode inside the graph, write the file, check it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from deploy.contract import Contract
from deploy.errors import BuildError
from deploy.plugins import name_plugins
from deploy.simplify import simplify
from deploy.traced_graph import GraphCache, filled, without_weights
from kernels import KernelInputError
from model import MultiTaskResFormer
from model.inference import for_inference
from model.network import Decoded, DecodedNetwork

# The exporter's note of the module that a node comes from, by which `precision.layer_errors` names layers.
NAME_SCOPES = "pkg.torch.onnx.name_scopes"
# What the network itself is cast to: with plugins and for Torch-TensorRT. Everything else starts from its float32 file,
# of which `deploy.precision` makes the lower precisions.
EXPORT_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16}
WIRE_TYPES: dict[int, str] = {onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.UINT8: "UINT8"}


class ExportedNetwork(nn.Module):
    """Run the folded network at `dtype` between float32 inputs and outputs, so that callers need not know `dtype`."""

    def __init__(self, model: MultiTaskResFormer, dtype: torch.dtype, *, plugins: bool = False) -> None:
        """Fold a copy of `model`, as a plain graph or, with `plugins`, as calls of the operators of `kernels`."""
        super().__init__()
        self.dtype = dtype
        # Folded in float32 and cast last: casting first would round the batch norms' small variances.
        network = for_inference(model, "triton") if plugins else simplify(model)
        self.decoded = DecodedNetwork(network).to(dtype)
        self.eval()

    def forward(self, image: Tensor) -> Decoded:
        """Map images (B, 3, S, S) float32 to `Decoded`, with float32 probabilities."""
        mask, class_probs, seg_probs = self.decoded(image.to(self.dtype))
        return Decoded(mask, class_probs.float(), seg_probs.float())


def export_onnx(
    model: MultiTaskResFormer,
    contract: Contract,
    path: Path,
    *,
    precision: str = "fp32",
    plugins: bool = False,
    cache: GraphCache | None = None,
) -> None:
    """Write `model` as an ONNX file with the contract's names.

    Args:
        model: the trained network.
        contract: with a `max_batch` of 1 the file has a static batch, with a larger one a dynamic batch.
        path: where the file goes.
        precision: a key of `EXPORT_DTYPES`.
        plugins: call the kernels' operators instead of the plain graph. They need a static batch.
        cache: where the traced graph of this structure may be, and where a new one is kept.

    Raises:
        BuildError: the file breaks ONNX's own rules or the contract, or the kernels behind the plugins do not take this
            network.
    """
    network = ExportedNetwork(model, EXPORT_DTYPES[precision], plugins=plugins)
    traced = cache.read() if cache else None
    if traced is None:
        traced = _traced(network, contract, plugins=plugins)
        if cache:
            cache.write(traced)
    onnx.save(filled(traced, network.state_dict()), path)
    check_onnx(path, contract)


def _traced(network: ExportedNetwork, contract: Contract, *, plugins: bool) -> onnx.ModelProto:
    """Return the graph of a network, without its weights."""
    # Two images: an example of one would make torch.export specialise the batch.
    example = torch.zeros(min(2, contract.max_batch), *contract.network_input.shape)
    batch = torch.export.Dim("batch", min=1, max=contract.max_batch) if contract.max_batch > 1 else None
    with _quiet_exporter():
        program = torch.onnx.export(
            # The plugin nodes can only be put into a program that is already traced.
            _traced_with_plugins(network, example) if plugins else network,
            (example,),
            input_names=[contract.network_input.name],
            output_names=[output.name for output in contract.outputs],
            dynamic_shapes=({0: batch},) if batch else None,
            dynamo=True,
            verbose=False,
            optimize=False,
        )
    assert program is not None
    return _without_notes(without_weights(program, network.state_dict()))


def _traced_with_plugins(network: nn.Module, example: Tensor) -> ExportedProgram:
    try:
        return name_plugins(torch.export.export(network, (example,)))
    except KernelInputError as error:
        raise BuildError(f"this network cannot be built with --plugins: {error}") from None


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says in every export, and that no user can act on."""
    # It warns that torchvision is not installed, which nothing here needs.
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the exporter's own use of what torch deprecates
            yield
    finally:
        logger.setLevel(level)


def _without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's notes of source lines, which name folders of this machine, and keep those of modules."""
    for node in model.graph.node:
        scopes = [entry.value for entry in node.metadata_props if entry.key == NAME_SCOPES]
        del node.metadata_props[:]
        if scopes:
            node.metadata_props.add(key=NAME_SCOPES, value=scopes[0])
    return model


def check_onnx(path: Path, contract: Contract) -> None:
    """Raise BuildError unless the file passes ONNX's checker and has exactly the contract's tensors."""
    model = onnx.load(path)
    try:
        # The full check also infers every shape and type through the graph.
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BuildError(f"{path.name} breaks the ONNX rules: {' '.join(str(error).split())}") from None
    actual = [_signature(value) for value in (*model.graph.input, *model.graph.output)]
    expected = [(spec.name, spec.dtype, spec.shape) for spec in (contract.network_input, *contract.outputs)]
    if actual != expected:
        raise BuildError(f"{path.name} must have the tensors {expected}, got {actual}")


def _signature(value: onnx.ValueInfoProto) -> tuple[str, str, tuple[int, ...]]:
    """Return a tensor's name, the server's name of its type, and its shape without the batch."""
    tensor = value.type.tensor_type
    # Any other type becomes a name that no contract has, so the comparison reports it.
    dtype = WIRE_TYPES.get(int(tensor.elem_type), "other")
    return value.name, dtype, tuple(dim.dim_value for dim in tensor.shape.dim[1:])
