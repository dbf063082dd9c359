"""Run the plugins' PTX with exactly what TensorRT passes: inputs, 32-bit scalars, output, and nothing else."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import dilated_fusion, pack_taps, prepare_bias, window_attention
from tests.emulator.cases import CAPABILITIES
from tests.emulator.conftest import ROOT
from tests.emulator.machine import Program
from tests.emulator.memory import GlobalMemory
from tests.emulator.parser import parse
from tests.kernels.accuracy import assert_as_exact_as_eager

Layers = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Layers:
    """Return what NVIDIA's plugin front end makes of a layer of each plugin, by the compute capability."""
    path = tmp_path_factory.mktemp("plugins") / "built.json"
    command = [sys.executable, "-m", "tests.helpers.plugin_front_end", str(path), *map(str, CAPABILITIES)]
    # Nothing compiles where Triton interprets, as in this process.
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, env=clean, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made: Layers = json.loads(path.read_text())
    return made


def enqueue(layer: dict[str, Any], *inputs: Tensor) -> Tensor:
    """Launch a layer as TensorRT does, and return its output."""
    dtype, shape = layer["output"]
    assert dtype == "HALF"
    out = torch.full(shape, torch.nan, dtype=torch.float16)  # what is not stored stays NaN
    memory = GlobalMemory()
    for tensor in (*inputs, out):
        memory.add(tensor.data_ptr(), tensor.nbytes)
    arguments = [*(one.data_ptr() for one in inputs), *layer["extras"], out.data_ptr()]
    program = Program(parse(layer["ptx"]))
    assert program.kernel.threads == layer["block_x"]
    assert program.launch(layer["grid_x"], layer["shared_mem"], memory, arguments).races == 0
    return out


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_attention(capability: int, layers: Layers) -> None:
    torch.manual_seed(0)
    # The shapes of `plugin_front_end.CASES`.
    qkv, table = torch.randn(2, 28, 42, 3 * 64).half(), torch.randn(27 * 27, 2)
    rows = prepare_bias(table, window_size=14, shift_size=7, scale=32**-0.5)
    got = enqueue(layers[str(capability)]["window_attention"], qkv, rows)
    eager, exact = (
        window_attention(one, bias, num_heads=2, window_size=14, shift_size=7, impl="reference")
        for one, bias in ((qkv, table), (qkv.double(), table.double()))
    )
    assert_as_exact_as_eager([got], [eager], [exact])


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_dilated_fusion(capability: int, layers: Layers) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(2, 20, 13, 64).half(), torch.randn(96).half()
    weight = (torch.randn(3, 96, 64, 3, 3) / (27 * 64) ** 0.5).half()
    got = enqueue(layers[str(capability)]["dilated_fusion"], x, pack_taps(weight, (6, 12, 18)), bias)
    eager, exact = (
        dilated_fusion(*inputs, dilations=(6, 12, 18), impl="reference")
        for inputs in ((x, weight, bias), (x.double(), weight.double(), bias.double()))
    )
    assert_as_exact_as_eager([got], [eager], [exact])
