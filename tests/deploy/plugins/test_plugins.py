"""Check what TensorRT would be given, as NVIDIA's own plugin front end takes it from our registrations."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import triton

from deploy import build_engine
from deploy.engines.gpu import plugin_refusals
from deploy.errors import BuildError
from deploy.export import export_onnx
from deploy.plugins.payload import dilated_payload
from kernels import KernelInputError
from model import ModelConfig
from tests.helpers.networks import SMALLEST, lived_in
from tests.helpers.smallest import CONTRACT

ROOT = Path(__file__).parents[3]
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
KERNELS = {
    "window_attention": ("attention_forward", ["u64"] * 2 + ["u32"] * 4 + ["u64"]),  # qkv, rows, sizes, shift, out
    "dilated_fusion": ("dilated_forward", ["u64"] * 3 + ["u32"] * 2 + ["u64"]),  # x, taps, bias, sizes, out
}
ARCHITECTURES = [
    *("80", "120"),
    *(
        pytest.param(capability, marks=pytest.mark.slow)
        for capability in ("86", "89", "90", "100", "103", "110", "121")
    ),
]
Built = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Built]:
    """Return a compute capability, and what came of a layer of each plugin for it."""
    path = tmp_path_factory.mktemp("plugins") / "built.json"
    command = [sys.executable, "-m", "tests.helpers.plugin_front_end", str(path), request.param]
    # The tests of the kernels set TRITON_INTERPRET, under which nothing compiles.
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=clean, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made: dict[str, Built] = json.loads(path.read_text())
    return request.param, made[request.param]


def test_the_front_end_builds_both_layers(built: tuple[str, Built]) -> None:
    attention, dilated = (built[1][name] for name in KERNELS)
    assert attention["output"] == ["HALF", [2, 28, 42, 64]]
    assert dilated["output"] == ["HALF", [2, 20, 13, 96]]
    by_type = attention["supported"], dilated["supported"]
    assert by_type[0][3:6] == ["HALF", "FLOAT", "HALF"] and len(by_type[0]) == 9  # the bias rows stay float32
    assert by_type[1][4:8] == ["HALF"] * 4 and len(by_type[1]) == 12
    assert attention["extras"] == [28, 42, 2, 7] and dilated["extras"] == [20, 13]
    assert attention["grid_x"] == 2 * 2 * 3 * 2 * 2  # images, windows, heads, blocks of 128 tokens
    assert dilated["grid_x"] == 2 * 3 * 2 * 3  # images, rows and columns of tiles, blocks of channels


@pytest.mark.parametrize("name", KERNELS)
def test_the_kernel_takes_what_tensorrt_passes(built: tuple[str, Built], name: str) -> None:
    entry, parameters = KERNELS[name]
    layer = built[1][name]
    assert layer["entry"] == entry
    signature = re.search(rf"\.visible \.entry {entry}\((.*?)\n\)", layer["ptx"], re.DOTALL)
    assert signature is not None
    assert re.findall(r"\.param \.(u64|u32)", signature[1]) == parameters  # and neither scratch pointer
    assert set(re.findall(rf"{entry}_param_(\d+)", layer["ptx"])) == {str(index) for index in range(len(parameters))}
    assert layer["shared_mem"] < 48 * 1024
    assert layer["block_x"] == int(re.search(r"\.reqntid (\d+)", layer["ptx"])[1])  # type: ignore[index]
    assert [layer[key] for key in ("grid_y", "grid_z", "block_y", "block_z")] == [1] * 4


@pytest.mark.parametrize("name", KERNELS)
def test_ptxas_assembles_it(built: tuple[str, Built], name: str, tmp_path: Path) -> None:
    capability, layers = built
    source = tmp_path / "kernel.ptx"
    source.write_text(layers[name]["ptx"])
    target = re.search(r"\.target (\w+)", layers[name]["ptx"])
    assert target is not None and target[1].rstrip("a") == f"sm_{capability}"
    assembler = BINARIES / ("ptxas-blackwell" if int(capability) >= 100 else "ptxas")
    command = [str(assembler), f"-arch={target[1]}", str(source), "-o", str(tmp_path / "kernel.cubin")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_export_names_the_plugins(tmp_path: Path) -> None:
    config = ModelConfig(image_size=64, channels=(16, 32, 64, 128), resnet_blocks=(1, 1, 1, 1), head_dim=16)
    contract = replace(CONTRACT, max_batch=1)
    path = tmp_path / "plugins.onnx"
    export_onnx(lived_in(config), contract, path, precision="fp16", plugins=True)
    graph = onnx.load(path).graph
    nodes = [node for node in graph.node if node.domain == "resformer"]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in nodes:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        assert attributes.pop("plugin_namespace") == b"resformer" and attributes.pop("plugin_version") == b"1"
        assert attributes.pop("aot") == 1
        own = {"window_attention": {"window_size", "shift_size", "scale"}, "dilated_fusion": {"dilations"}}
        assert attributes.keys() == own[node.op_type]
        assert all(name in constants for name in node.input[1:])  # the weights are prepared in the file
        types = [constants[name].data_type for name in node.input[1:]]
        float_, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
        assert types == ([float_] if node.op_type == "window_attention" else [half, half])
    assert sorted(node.op_type for node in nodes) == ["dilated_fusion"] * 4 + ["window_attention"] * 8


def test_a_network_that_the_kernels_do_not_take_is_refused_in_one_line(tmp_path: Path) -> None:
    contract = replace(CONTRACT, max_batch=1)
    # Heads of 8 channels, where the attention kernel takes 16, 32 and 64.
    with pytest.raises(BuildError, match=r"^this network cannot be built with --plugins: .* head dim .* got 8$"):
        export_onnx(lived_in(SMALLEST), contract, tmp_path / "plugins.onnx", plugins=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("capability", "refused"), [((8, 0), False), ((12, 1), False), ((12, 3), True)])
def test_a_gpu_that_the_compiler_does_not_know_is_refused(
    capability: tuple[int, int], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ask before anything is compiled: for an unknown GPU, LLVM ends the whole process."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device=None: capability)
    assert [reason.endswith("got 12.3") for reason in plugin_refusals()] == [True] * refused
    if refused:
        with pytest.raises(KernelInputError, match=r"^plugins need a GPU of compute capability 8\.0, .*, got 12\.3$"):
            dilated_payload((1, 8, 8, 16), 16, (1, 2), torch.float16, 123)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--target", "tensorrt-rtx"],
            "tensorrt-rtx takes no plugins: leave --plugins out, or build --target tensorrt",
        ),
        (["--target", "openvino"], "openvino takes no plugins"),
        ([], "--plugins needs --target tensorrt"),
        (["--target", "tensorrt", "--any-gpu"], "--plugins compiles the kernels for the GPU at hand"),
        (["--target", "tensorrt", "--max-batch", "8"], "--plugins builds static shapes: give --max-batch 1, got 8"),
        (["--target", "tensorrt", "--precision", "int8"], "--plugins builds fp32, tf32, fp16, not int8"),
    ],
)
def test_who_can_not_take_plugins_says_so(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert build_engine.main(["--plugins", "--max-batch", "1", "--output", str(output), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not output.exists()
