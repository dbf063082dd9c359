"""Build OpenVINO engines: what the server usually runs where there is no GPU."""

from pathlib import Path

import openvino
from openvino import opset13 as ops
from openvino.op import Constant

from deploy.engines.base import QUANTIZED, BuildRequest, EngineRequest, Precision, Progress, Target
from deploy.engines.openvino_winograd import mark_faster
from deploy.errors import BuildError
from deploy.network import winograd
from deploy.network.openvino_session import core, read_model


class OpenVinoTarget(Target):
    """Build OpenVINO's own format: an `.xml` file with the graph, and a `.bin` file with float32 weights.

    The precision of such an engine is that of its execution.
    """

    name = "openvino"
    suffix = ".xml"
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "int8", "mixed")

    @property
    def runs_here(self) -> bool:
        """Return True: OpenVINO runs on every processor that it installs on."""
        return True

    def version(self) -> str:
        """Name OpenVINO and its version, and what the form of its convolutions was timed with."""
        operator = "no operator" if winograd.reason_against() else winograd.instructions()
        return f"openvino {openvino.__version__}, Winograd: {operator}"

    def check(self, request: EngineRequest) -> list[str]:
        """List the general reasons, and refuse bf16 where the processor would only emulate it."""
        reasons = super().check(request)
        if request.precision == "bf16" and "BF16" not in _capabilities():
            need = "a CPU with bfloat16 instructions (AVX512_BF16 or AMX)"
            reasons.append(f"openvino bf16 needs {need}; this one has {_capabilities()}")
        return reasons

    def onnx_precision(self, precision: Precision) -> Precision:
        """Start quantised engines from their quantised file, everything else from the float32 one."""
        return precision if precision in QUANTIZED else "fp32"

    def build(self, request: BuildRequest, path: Path, progress: Progress) -> None:
        """Convert the ONNX file, with the convolutions marked that are faster in Winograd's form."""
        model = read_model(request.onnx)
        fold_scales(model)
        # The two forms are timed in float32 only, so the choice says nothing about other types.
        if request.precision == "fp32":
            mark_faster(model, request.threads, progress, request.timing_cache)
        # A note for people who open the file, which does not tell the type by itself.
        model.set_rt_info(self.execution(request.precision), "resformer_execution")
        try:
            # The default would round the weights to float16.
            openvino.save_model(model, path, compress_to_fp16=False)
        except RuntimeError as error:
            # A full disk looks like any other failure of a C++ stream.
            raise BuildError(
                f"OpenVINO cannot write {path.name} ({' '.join(str(error).split())}): is the disk full?"
            ) from None

    def execution(self, precision: Precision) -> str:
        """Return what everything not quantised is computed in."""
        # Around int8 products bf16 gains nothing, because each of them converts to float32 and back.
        halved = precision == "bf16" or (precision == "mixed" and "BF16" in _capabilities())
        return "openvino bf16" if halved else "openvino f32"


def fold_scales(model: openvino.Model) -> int:
    """Put the scales of quantised activations into their quantisers, and return how many were changed.

    A pair of QuantizeLinear and DequantizeLinear is read as FakeQuantize to -128 .. 127, two conversions, and the
    product with the scale. With OpenVINO 2026.4 on a processor with AVX2 alone, and a Concat anywhere in the graph, a
    quantiser behind which a Transpose or a Concat stands would then take -128 .. 127 for the range of its values: where
    that is 10, 11 of the 256 steps are left. With the scale inside FakeQuantize it keeps all.
    """
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "Multiply"]
    return sum(_fold_scale(product) for product in products)


def _fold_scale(product: openvino.Node) -> bool:
    """Put a FakeQuantize in the place of `Multiply(Subtract(Convert(Convert(FakeQuantize)), 0), scale)`."""
    chain = [product]
    for name in ("Subtract", "Convert", "Convert", "FakeQuantize"):
        chain.append(_input(chain[-1], 0))
        if chain[-1].get_type_name() != name:
            return False
    quantizer, scale, zero = chain[-1], _input(product, 1), _input(chain[1], 1)
    if not isinstance(scale, Constant):
        return False
    assert not _input(zero, 0).get_data().any(), "symmetric quantisation has its zero at 0"
    data, low, high = (quantizer.input_value(index) for index in range(3))
    ranges = [ops.constant(_input(quantizer, index).get_data() * scale.get_data()) for index in (3, 4)]
    folded = ops.fake_quantize(data, low, high, *ranges, quantizer.get_attributes()["levels"])
    folded.set_friendly_name(product.get_friendly_name())
    for reader in product.output(0).get_target_inputs():
        reader.replace_source_output(folded.output(0))
    return True


def _input(node: openvino.Node, index: int) -> openvino.Node:
    return node.input_value(index).get_node()


def _capabilities() -> list[str]:
    """List the types that this processor computes in, as OpenVINO names them."""
    able: list[str] = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return able
