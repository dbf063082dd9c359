"""Test the OpenVINO engines of quantised files."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper, numpy_helper
from openvino import opset13 as ops

from deploy.engines.openvino_cpu import fold_scales
from deploy.network.openvino_session import compile_model, read_model

SIZE, CHANNELS = 14, 24


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    """Write a convolution of a quantised, transposed map, in a graph that has a Concat: what Swin stages end with."""
    random = np.random.default_rng(3)
    weights = random.integers(-64, 64, (CHANNELS, CHANNELS, 2, 2), dtype=np.int8)
    constants = {
        "scale": np.float32(10 / 255),
        "zero": np.int8(0),
        "weights": weights,
        "weight_scales": random.uniform(0.002, 0.004, CHANNELS).astype(np.float32),
        "weight_zeros": np.zeros(CHANNELS, np.int8),
    }
    nodes = [
        helper.make_node("Concat", ["image", "image"], ["map"], axis=1),
        helper.make_node("QuantizeLinear", ["map", "scale", "zero"], ["steps"]),
        helper.make_node("DequantizeLinear", ["steps", "scale", "zero"], ["values"]),
        helper.make_node("Transpose", ["values"], ["transposed"], perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", ["weights", "weight_scales", "weight_zeros"], ["kernel"], axis=0),
        helper.make_node("Conv", ["transposed", "kernel"], ["out"], strides=[2, 2], kernel_shape=[2, 2]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", SIZE, SIZE, CHANNELS])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "quantized", [image], [out], initializers)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "quantized.onnx")
    return tmp_path / "quantized.onnx"


def test_a_quantizer_keeps_all_its_steps_before_a_transpose(quantized: Path, tmp_path: Path) -> None:
    # With AVX2 alone and the scale beside FakeQuantize, the error is a quarter of the result.
    model = read_model(quantized)
    assert fold_scales(model) == 1
    openvino.save_model(model, tmp_path / "engine.xml", compress_to_fp16=False)
    image = np.random.default_rng(4).standard_normal((1, SIZE, SIZE, CHANNELS)).astype(np.float32)
    session = onnxruntime.InferenceSession(quantized, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"image": image})[0]
    found = compile_model(read_model(tmp_path / "engine.xml"), "f32", 1)(image)[0]
    assert np.square(found - expected).mean() < 1e-6 * np.square(expected).mean()


def test_a_float_model_has_nothing_to_fold() -> None:
    image = ops.parameter([1, 3, 8, 8], np.float32)
    assert fold_scales(openvino.Model([ops.multiply(image, ops.constant(np.float32(2)))], [image])) == 0
