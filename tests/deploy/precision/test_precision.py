"""Test the lower precisions of one exported file: what they hold, what they cost, why they are refused."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from deploy import build_engine
from deploy.engines import TARGETS, BuildRequest, GpuOptions, cpu_runner, engine_runner, pytorch_runner
from deploy.errors import BuildError
from deploy.export import check_onnx
from deploy.precision import cast
from deploy.precision.layer_errors import layer_errors, worst_layers
from deploy.precision.quantize import Loss, quantize
from deploy.report import read_report
from deploy.verify import broken_tolerances, compare
from tests.helpers.networks import SMALLEST, lived_in
from tests.helpers.smallest import CONTRACT, images


def quantized(exported: Path, precision: str, loss: Loss = lambda model: 0.0) -> onnx.ModelProto:
    """Quantise the exported file, by default as if nothing were lost, so that no layer stays in float32."""
    return quantize(onnx.load(exported), precision, images(16), loss, lambda phase, share: None)


@pytest.fixture(scope="module")
def eight_bits(exported: Path) -> Path:
    """Write the int8 file."""
    path = exported.with_name("model.int8.onnx")
    onnx.save(quantized(exported, "int8"), path)
    return path


@pytest.fixture(scope="module")
def mixed(exported: Path) -> Path:
    """Write the file with convolutions in 8 bits."""
    path = exported.with_name("model.mixed.onnx")
    onnx.save(quantized(exported, "mixed"), path)
    return path


@pytest.fixture(scope="module")
def float8(exported: Path) -> Path:
    """Write the fp8 file."""
    path = exported.with_name("model.fp8.onnx")
    onnx.save(quantized(exported, "fp8"), path)
    return path


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_lowered_file_keeps_its_border_and_stays_near(exported: Path, precision: str) -> None:
    path = exported.with_name(f"model.{precision}.onnx")
    onnx.save(cast(onnx.load(exported), precision), path)
    check_onnx(path, CONTRACT)
    reference = pytorch_runner(lived_in(SMALLEST))(images(3))
    runner = engine_runner("onnx", precision, path, 1)
    assert runner is not None
    assert not broken_tolerances(precision, compare(reference, runner(images(3))))


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_tensorrt_rtx_builds_it(exported: Path, precision: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if precision in ("int8", "fp8"):
        source = request.getfixturevalue({"int8": "eight_bits", "fp8": "float8"}[precision])
    else:
        source = tmp_path / "lowered.onnx"
        onnx.save(cast(onnx.load(exported), precision), source)
    options = GpuOptions(compute_capabilities=("8.9",))  # the first that has FP8
    build = BuildRequest(model=lived_in(SMALLEST), onnx=source, contract=CONTRACT, precision=precision, gpu=options)
    TARGETS["tensorrt-rtx"].build(build, tmp_path / "engine", lambda phase, share: None)
    assert (tmp_path / "engine").stat().st_size > 0


def test_bf16_keeps_transposed_convolutions_in_float32(exported: Path) -> None:
    graph = cast(onnx.load(exported), "bf16").graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    heavy = {kind: {types[n.input[1]] for n in graph.node if n.op_type == kind} for kind in ("Conv", "ConvTranspose")}
    assert heavy == {"Conv": {TensorProto.BFLOAT16}, "ConvTranspose": {TensorProto.FLOAT}}


def quantizers(path: Path) -> tuple[onnx.GraphProto, dict[str, onnx.TensorProto], list[onnx.NodeProto]]:
    """Check a file and return its graph, its constants, and its Q/DQ nodes."""
    check_onnx(path, CONTRACT)
    graph = onnx.load(path).graph
    nodes = [node for node in graph.node if node.op_type.endswith("uantizeLinear")]
    return graph, {tensor.name: tensor for tensor in graph.initializer}, nodes


def quantized_convolutions(graph: onnx.GraphProto) -> dict[str, bool]:
    """Tell by name of its stored weight whether a convolution is quantised."""
    # A quantised weight is stored under the name that its dequantiser reads.
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = [node.input[1] for node in graph.node if node.op_type == "Conv"]
    return {sources.get(name, name): name in sources for name in weights}


def test_eight_bits_are_signed_symmetric_and_in_every_convolution(eight_bits: Path) -> None:
    graph, tensors, nodes = quantizers(eight_bits)
    points = [onnx.numpy_helper.to_array(tensors[node.input[2]]) for node in nodes]
    assert {point.dtype.name for point in points} == {"int8"}
    assert not any(point.any() for point in points)
    assert np.mean(list(quantized_convolutions(graph).values())) > 0.9


def test_eight_bit_products_never_overflow_16_bits(eight_bits: Path) -> None:
    """Add two products of an unsigned 8-bit activation and a weight, as processors without VNNI do in 16 bits."""
    _, tensors, nodes = quantizers(eight_bits)
    weights = [onnx.numpy_helper.to_array(tensors[node.input[0]]) for node in nodes if node.input[0] in tensors]
    assert len(weights) > 20  # else the next line would prove little
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) * 255 * 2 < 2**15


def test_mixed_has_eight_bits_in_convolutions_alone(mixed: Path) -> None:
    graph, _, nodes = quantizers(mixed)
    assert np.mean(list(quantized_convolutions(graph).values())) > 0.9
    quantised = {node.output[0] for node in nodes}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert len(products) > 20
    assert not [node.name for node in products if quantised.intersection(node.input)]


def test_fp8_is_where_tensorrt_has_kernels_for_it(float8: Path) -> None:
    graph, tensors, nodes = quantizers(float8)
    assert {tensors[node.input[2]].data_type for node in nodes} == {TensorProto.FLOAT8E4M3FN}
    for name, is_quantized in quantized_convolutions(graph).items():
        c_out, c_in, *kernel = tensors[name].dims
        assert is_quantized == (min(c_out, c_in) >= 16 and math.prod(kernel) <= 32)
    assert {True, False} == set(quantized_convolutions(graph).values())


@pytest.mark.parametrize("precision", ["int8", "mixed"])
def test_both_runtimes_read_eight_bits(precision: str, request: pytest.FixtureRequest) -> None:
    """Compare labels only: masks of random weights flip at the least change, and the slow test has shipped weights."""
    target = TARGETS["openvino"]
    source: Path = request.getfixturevalue({"int8": "eight_bits", "mixed": "mixed"}[precision])
    path, computed = source.with_name(f"openvino.{precision}.xml"), target.execution(precision)
    assert computed is not None
    build = BuildRequest(model=lived_in(SMALLEST), onnx=source, contract=CONTRACT, precision=precision)
    target.build(build, path, lambda phase, share: None)
    reference = pytorch_runner(lived_in(SMALLEST))(images(3))
    for runner in (cpu_runner(source, "onnxruntime", 1), cpu_runner(path, computed, 1)):
        # Above 0: the file really is another one.
        assert 0 < compare(reference, runner(images(3))).classification < 0.02


def test_onnx_runtime_answers_in_fp8(float8: Path) -> None:
    reference = pytorch_runner(lived_in(SMALLEST))(images(3))
    runner = engine_runner("onnx", "fp8", float8, 1)
    assert runner is not None
    assert 0 < compare(reference, runner(images(3))).classification < 0.05


def test_the_layers_that_hurt_are_named(exported: Path) -> None:
    model = onnx.load(exported)
    convolutions = (node for node in model.graph.node if node.op_type == "Conv")
    damaged = next(node for node in convolutions if "stages.2" in str(node.metadata_props))
    # One layer with weights that are half as large again, and nothing else.
    (kernel,) = [tensor for tensor in model.graph.initializer if tensor.name == damaged.input[1]]
    values = onnx.numpy_helper.to_array(kernel)
    kernel.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.5), kernel.name))
    worst = worst_layers(onnx.load(exported), model, images(2))
    assert worst[0].startswith("encoder.stages.2")
    assert "%" in worst[0]


def test_a_layer_answers_for_its_own_error_only(exported: Path, eight_bits: Path) -> None:
    """Compare each layer's error with rounding alone, which is 2^-11 in fp16 and some percent in 8 bits."""
    reference = onnx.load(exported)
    half = layer_errors(reference, cast(reference, "fp16"), images(2))
    eight = layer_errors(reference, onnx.load(eight_bits), images(2))
    assert len(half) == len(eight) > 100
    assert half[0].error < 2e-3
    assert 2e-3 < np.median([layer.error for layer in eight]) < 0.05


@pytest.mark.slow
def test_the_layers_that_cost_too_much_stay_in_float32(exported: Path, eight_bits: Path) -> None:
    """Take the error of the mask's probabilities as the loss, and allow 0.6 of what plain quantisation loses."""
    reference = cpu_runner(exported, "onnxruntime", 1)(images(3))

    def loss(model: onnx.ModelProto) -> float:
        return compare(reference, cpu_runner(model.SerializeToString(), "onnxruntime", 1)(images(3))).segmentation

    plain = onnx.load(eight_bits)
    allowed = 0.6 * loss(plain)
    mixed = quantized(exported, "int8", lambda model: loss(model) / allowed)
    assert loss(mixed) <= allowed
    counts = [sum(node.op_type == "QuantizeLinear" for node in model.graph.node) for model in (mixed, plain)]
    assert 0 < counts[0] < counts[1]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "mixed"])
@pytest.mark.parametrize("weights", ["skin-tiny", "oct-tiny"])
def test_eight_bits_of_shipped_weights_pass_the_gate(weights: str, precision: str, tmp_path: Path) -> None:
    """Build with real calibration and real validation images."""
    checkpoint = ["--checkpoint", f"model/weights/{weights}.safetensors", "--output", str(tmp_path)]
    assert build_engine.main([*checkpoint, "--target", "openvino", "--precision", precision]) == 0
    report = read_report(tmp_path)
    assert report is not None
    for engine in report.engines:
        assert engine.changes["dice"].value >= -0.005
        assert engine.changes["accuracy"].value >= -0.01
    assert f"openvino {precision}" in {engine.name for engine in report.engines}


def test_nothing_of_this_machine_is_in_the_file(exported: Path) -> None:
    assert b"/deploy/" not in exported.read_bytes()


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (images(1), "int8 needs at least 16 training images to take ranges from, got 1"),
        (np.ones((16, 3, 64, 64), np.float32), "all 16 training images are alike"),
    ],
    ids=["one image", "all alike"],
)
def test_a_calibration_that_shows_no_range_is_refused(
    exported: Path, calibration: NDArray[np.float32], message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        quantize(onnx.load(exported), "int8", calibration, lambda model: 0.0, lambda phase, share: None)
