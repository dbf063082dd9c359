"""Compare the exported ONNX file, run by ONNX Runtime, with the PyTorch network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from deploy.engines import cpu_runner, pytorch_runner
from deploy.errors import BuildError
from deploy.export import check_onnx, export_onnx
from deploy.traced_graph import GraphCache
from deploy.verify import broken_tolerances, compare
from model.network import Prediction, decode
from tests.helpers.networks import SMALLEST, lived_in
from tests.helpers.smallest import CONTRACT, images


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_a_dynamic_batch_gives_what_pytorch_gives(exported: Path, batch: int) -> None:
    reference = pytorch_runner(lived_in(SMALLEST))(images(batch))
    output = cpu_runner(exported, "onnxruntime", 2)(images(batch))
    assert not broken_tolerances("fp32", compare(reference, output))
    np.testing.assert_allclose(output.seg_probs, reference.seg_probs, atol=1e-4)
    assert output.mask.dtype == np.uint8
    assert output.mask.shape == (batch, 64, 64)


def test_one_image_at_most_gives_a_static_graph(tmp_path: Path) -> None:
    path = tmp_path / "one.onnx"
    export_onnx(lived_in(SMALLEST), replace(CONTRACT, max_batch=1), path)
    (image,) = onnx.load(path).graph.input
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim] == [1, 3, 64, 64]
    reference = pytorch_runner(lived_in(SMALLEST))(images(1))
    assert not broken_tolerances("fp32", compare(reference, cpu_runner(path, "onnxruntime", 2)(images(1))))


def no_tracing(*_: object, **__: object) -> None:
    raise AssertionError("a structure that is known must not be traced again")


def test_a_known_structure_takes_other_weights_without_tracing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace a network of constant weights, which its own export may simplify, and fill in others."""
    cache, path = GraphCache(tmp_path / "cache", "structure"), tmp_path / "model.onnx"
    constant = lived_in(SMALLEST)
    for tensor in constant.state_dict().values():
        if tensor.is_floating_point():
            tensor.fill_(1.0)  # every bias and every norm are one tensor now
    export_onnx(constant, CONTRACT, path, cache=cache)
    monkeypatch.setattr(torch.onnx, "export", no_tracing)
    export_onnx(lived_in(SMALLEST), CONTRACT, path, cache=cache)
    reference = pytorch_runner(lived_in(SMALLEST))(images(3))
    output = cpu_runner(path, "onnxruntime", 2)(images(3))
    np.testing.assert_allclose(output.seg_probs, reference.seg_probs, atol=1e-4)
    np.testing.assert_allclose(output.class_probs, reference.class_probs, atol=1e-4)


def test_only_the_whole_graph_of_the_same_structure_is_known(tmp_path: Path, exported: Path) -> None:
    file, graph = tmp_path / "cache", onnx.load(exported)
    assert GraphCache(file, "one").read() is None
    GraphCache(file, "one").write(graph)
    assert GraphCache(file, "one").read() == graph
    assert GraphCache(file, "another").read() is None
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert GraphCache(file, "one").read() is None


def test_the_graph_holds_no_batch_norm_that_could_fold_and_one_convolution_a_branch(exported: Path) -> None:
    operators = [node.op_type for node in onnx.load(exported).graph.node]
    assert operators.count("BatchNormalization") == len(SMALLEST.head_levels)  # before a ReLU: nothing to fold it into
    dilated = [
        node
        for node in onnx.load(exported).graph.node
        for attribute in node.attribute
        if attribute.name == "dilations" and list(attribute.ints) == [5, 5]
    ]
    assert len(dilated) == 3  # maps of 32, 16 and 8 px: at 4 px it is a centre tap, in another branch


@pytest.mark.parametrize("channels", [1, 4])
def test_the_mask_becomes_bytes_by_way_of_floating_point(channels: int) -> None:
    """Look at the traced program: TensorRT documents a cast to uint8 from floating point only."""
    logits = Prediction(torch.zeros(2, channels, 8, 8), torch.zeros(2, 3))
    graph = make_fx(lambda: decode(logits))().graph
    (last,) = [
        node for node in graph.nodes if node.meta.get("tensor_meta") and node.meta["tensor_meta"].dtype is torch.uint8
    ]
    (source,) = last.all_input_nodes
    assert source.meta["tensor_meta"].dtype is torch.float32


def test_a_file_with_other_tensors_or_broken_rules_is_refused(exported: Path, tmp_path: Path) -> None:
    renamed, broken = tmp_path / "renamed.onnx", tmp_path / "broken.onnx"
    model = onnx.load(exported)
    model.graph.output[0].name, model.graph.node[-1].output[0] = "OTHER", "OTHER"
    onnx.save(model, renamed)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, broken)
    for path in (renamed, broken):
        with pytest.raises(BuildError, match=rf"{path.name} (must have|breaks)"):
            check_onnx(path, CONTRACT)
