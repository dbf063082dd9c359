"""Test what Torch-TensorRT would be given, which starts CUDA as soon as it is imported."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from deploy.building.plan import choose_targets
from deploy.engines import TARGETS, BuildRequest, EngineOutput, GpuOptions, pytorch_runner
from deploy.engines import torch_tensorrt as target
from deploy.errors import BuildError
from deploy.verify import broken_tolerances, compare
from model.network import Decoded, Prediction, decode
from tests.helpers.networks import SMALLEST, lived_in
from tests.helpers.smallest import CONTRACT, images

CASTS = ("aten.to.", "aten._to_copy.")  # the operators that cast, as a traced program names them


def integer_casts(program: torch.export.ExportedProgram) -> list[str]:
    """List the nodes that make integers of other types: the library converts no cast to uint8."""
    values = [(node.name, node.meta.get("val")) for node in program.graph.nodes if str(node.target).startswith(CASTS)]
    return [name for name, value in values if isinstance(value, torch.Tensor) and not value.dtype.is_floating_point]


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    """Export the smallest network's logits once."""
    return target.logits_program(lived_in(SMALLEST), CONTRACT, "fp32", "cpu")


def test_the_program_has_no_cast_that_the_library_refuses(program: torch.export.ExportedProgram) -> None:
    assert integer_casts(program) == []


class Decoding(nn.Module):
    """Decode an image as if it held logits."""

    def forward(self, image: torch.Tensor) -> Decoded:
        return decode(Prediction(image, image.mean((2, 3))))


def test_a_program_with_its_decoding_would_have_one() -> None:
    assert len(integer_casts(torch.export.export(Decoding(), (torch.zeros(2, 3, 8, 8),)))) == 1


def test_its_logits_decode_to_the_trained_networks_answers(program: torch.export.ExportedProgram) -> None:
    some = images(2)
    logits = program.module()(torch.from_numpy(some))
    expected = pytorch_runner(lived_in(SMALLEST))(some)
    decoded = EngineOutput(*(tensor.numpy() for tensor in target._decode(*logits)))
    assert broken_tolerances("fp32", compare(expected, decoded)) == []


def test_what_the_library_raises_is_one_line(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> bytes:
        raise ValueError("dilations must have\n 2 values")

    dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=refuse)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", SimpleNamespace(dynamo=dynamo, Input=lambda **shapes: None))
    monkeypatch.setattr(target, "logits_program", lambda *arguments: None)
    request = BuildRequest(
        precision="fp16", model=lived_in(SMALLEST), onnx=tmp_path / "a.onnx", contract=CONTRACT, gpu=GpuOptions()
    )
    with pytest.raises(BuildError, match=r"^Torch-TensorRT cannot convert the network: dilations must have 2 values$"):
        TARGETS["torch-tensorrt"].build(request, tmp_path / "engine", lambda phase, share: None)


def test_only_a_build_that_names_it_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imitate a machine that could build every target."""
    for kind in TARGETS.values():
        monkeypatch.setattr(type(kind), "check", lambda self, request: [])
    chosen = choose_targets(None, "fp32", GpuOptions())
    assert "tensorrt" in chosen and "torch-tensorrt" not in chosen
    assert choose_targets(["torch-tensorrt"], "fp32", GpuOptions()) == ["torch-tensorrt"]
