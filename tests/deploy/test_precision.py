"""Lower precisions of one exported file: what they hold, what they cost, what they are refused for."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from deploy import build_engine
from deploy.engines import TARGETS, BuildRequest, engine_runner, onnx_runner
from deploy.errors import BuildError
from deploy.export import check_onnx
from deploy.layer_errors import worst_layers
from deploy.lower import lower
from deploy.quantize import quantize
from deploy.report import read_report
from deploy.verify import compare, failures, pytorch_runner
from tests.deploy.smallest import CONTRACT, images
from tests.networks import SMALLEST, lived_in


@pytest.fixture(scope="module")
def eight_bits(exported: Path) -> Path:
    path = exported.with_name("model.int8.onnx")
    onnx.save(quantize(onnx.load(exported), images(16), None, 0.005), path)
    return path


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_lowered_file_keeps_its_border_and_stays_near(exported: Path, precision: str) -> None:
    path = exported.with_name(f"model.{precision}.onnx")
    onnx.save(lower(onnx.load(exported), precision), path)
    check_onnx(path, CONTRACT)
    reference = pytorch_runner(lived_in(SMALLEST))(images(3))
    runner = engine_runner("onnx", precision, path, 1)
    assert runner is not None
    assert not failures(precision, compare(reference, runner(images(3))))


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_tensorrt_rtx_builds_it(exported: Path, eight_bits: Path, precision: str, tmp_path: Path) -> None:
    source = eight_bits
    if precision != "int8":
        source = tmp_path / "lowered.onnx"
        onnx.save(lower(onnx.load(exported), precision), source)
    request = BuildRequest(lived_in(SMALLEST), source, CONTRACT, precision)
    TARGETS["tensorrt-rtx"].build(request, tmp_path / "engine", lambda phase, share: None)
    assert (tmp_path / "engine").stat().st_size > 0


def test_bf16_keeps_transposed_convolutions_in_float32(exported: Path) -> None:
    graph = lower(onnx.load(exported), "bf16").graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    heavy = {kind: {types[n.input[1]] for n in graph.node if n.op_type == kind} for kind in ("Conv", "ConvTranspose")}
    assert heavy == {"Conv": {TensorProto.BFLOAT16}, "ConvTranspose": {TensorProto.FLOAT}}


def test_eight_bits_are_signed_symmetric_and_in_every_convolution(eight_bits: Path) -> None:
    check_onnx(eight_bits, CONTRACT)
    graph = onnx.load(eight_bits).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    points = [tensors[node.input[2]] for node in graph.node if node.op_type.endswith("uantizeLinear")]
    assert {point.dtype.name for point in points} == {"int8"}
    assert not any(point.any() for point in points)
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    kernels = [node.input[1] in dequantized for node in graph.node if node.op_type == "Conv"]
    assert np.mean(kernels) > 0.9


def test_both_runtimes_read_eight_bits(eight_bits: Path) -> None:
    """Labels only: masks of random weights hang on a hair, and those of shipped weights are judged by the slow test."""
    target = TARGETS["openvino"]
    path = eight_bits.with_name("openvino.int8.xml")
    target.build(BuildRequest(lived_in(SMALLEST), eight_bits, CONTRACT, "int8"), path, lambda phase, share: None)
    openvino_runner = target.runner(path, "int8", 1)
    assert openvino_runner is not None
    reference = pytorch_runner(lived_in(SMALLEST))(images(3))
    for runner in (onnx_runner(eight_bits, 1), openvino_runner):
        assert 0 < compare(reference, runner(images(3))).classification < 0.02


def test_the_layers_that_hurt_are_named(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    convolutions = (node for node in model.graph.node if node.op_type == "Conv")
    damaged = next(node for node in convolutions if "stages.2" in str(node.metadata_props))
    (kernel,) = [tensor for tensor in model.graph.initializer if tensor.name == damaged.input[1]]
    values = onnx.numpy_helper.to_array(kernel)
    kernel.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.5), kernel.name))
    onnx.save(model, tmp_path / "damaged.onnx")
    worst = worst_layers(exported, tmp_path / "damaged.onnx", images(2))
    assert worst[0].startswith("encoder.stages.2")
    assert "%" in worst[0]


@pytest.mark.slow
def test_the_search_takes_back_what_costs_too_much(exported: Path, eight_bits: Path) -> None:
    """With the error of the mask's probabilities for a loss, and 0.6 of what plain quantisation loses allowed."""
    reference = onnx_runner(exported, 1)(images(3))

    def loss(model: onnx.ModelProto) -> float:
        # Rounded, so that the float32 model loses exactly nothing, as it does on the task.
        return round(compare(reference, onnx_runner(model.SerializeToString(), 1)(images(3))).segmentation, 5)

    plain = onnx.load(eight_bits)
    allowed = 0.6 * loss(plain)
    searched = quantize(onnx.load(exported), images(16), loss, allowed)
    assert loss(searched) <= allowed
    counts = [sum(node.op_type == "QuantizeLinear" for node in model.graph.node) for model in (searched, plain)]
    assert 0 < counts[0] < counts[1]


@pytest.mark.slow
def test_eight_bits_of_shipped_weights_pass_the_gate(tmp_path: Path) -> None:
    """Real calibration, real validation images; the search runs where the plain quantisation loses too much."""
    arguments = ["--output", str(tmp_path), "--target", "openvino", "--precision", "int8", "--samples", "200"]
    assert build_engine.main(arguments) == 0
    report = read_report(tmp_path)
    assert report is not None
    changes = {engine.name: engine.changes for engine in report.engines}["openvino int8"]
    assert changes["dice"].value >= -0.005
    assert changes["accuracy"].value >= -0.01


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
    exported: Path,
    calibration: np.ndarray,
    message: str,  # type: ignore[type-arg]
) -> None:
    with pytest.raises(BuildError, match=message):
        quantize(onnx.load(exported), calibration, None, 0.005)
