"""Bytes and multiply-adds: counted in the interpreter, held to the formulas of `kernels.cost_model` and to the bars."""

from collections.abc import Iterator
from statistics import mean

import pytest
import torch

from kernels import pack_taps, prepare_bias
from kernels.attention.triton_launch import launch_forward
from kernels.cost_model import AttentionProblem, DilatedProblem
from kernels.dilated.triton_launch import launch
from tests.helpers.traffic import Traffic, recorded_traffic
from tests.kernels.conftest import ON_GPU

pytestmark = pytest.mark.skipif(
    ON_GPU, reason="counting needs the interpreter, which a process with a GPU does not run"
)
PAPER_224 = [
    DilatedProblem(1, 224 >> stage, 224 >> stage, 32 << stage, 32 << stage, (6, 12, 18), torch.float16)
    for stage in (1, 2, 3, 4)
]


@pytest.fixture
def traffic() -> Iterator[Traffic]:
    with recorded_traffic() as recorded:
        yield recorded


@pytest.mark.parametrize(
    "problem",
    [
        AttentionProblem(1, 14, 28, 1, 16, 14, 7, torch.float16),
        AttentionProblem(2, 7, 7, 2, 16, 7, 0, torch.float32),
        AttentionProblem(1, 4, 8, 1, 32, 4, 2, torch.bfloat16),
    ],
    ids=lambda problem: f"w{problem.window_size}",
)
def test_attention_traffic(problem: AttentionProblem, traffic: Traffic) -> None:
    channels, window, shift = problem.num_heads * problem.head_dim, problem.window_size, problem.shift_size
    qkv = torch.zeros(problem.batch, problem.height, problem.width, 3 * channels, dtype=problem.dtype)
    table = torch.zeros((2 * window - 1) ** 2, problem.num_heads)
    rows = prepare_bias(table, window_size=window, shift_size=shift, scale=0.25)
    out = launch_forward(qkv, rows, window, shift, 0.25)
    (loaded, unique_loaded), (stored, unique_stored) = traffic.loaded(qkv), traffic.stored(out)
    assert unique_loaded + unique_stored == problem.compulsory_bytes
    assert stored == unique_stored == out.nbytes  # the launch covers every output exactly once
    assert loaded + stored == problem.moved_bytes <= 2.5 * problem.compulsory_bytes
    assert rows.nbytes == problem.bias_bytes >= traffic.loaded(rows)[1] > 0
    assert 2 * traffic.multiply_adds == problem.executed_flops


@pytest.mark.parametrize(
    "problem",
    [
        DilatedProblem(1, 14, 14, 16, 8, (6, 18), torch.float16),
        DilatedProblem(2, 3, 6, 20, 70, (1, 3), torch.float32),
        DilatedProblem(1, 3, 10, 16, 16, (2, 2, 40), torch.bfloat16),
    ],
    ids=lambda problem: f"{problem.height}x{problem.width}",
)
def test_dilated_traffic(problem: DilatedProblem, traffic: Traffic) -> None:
    x = torch.zeros(problem.batch, problem.height, problem.width, problem.c_in, dtype=problem.dtype)
    weight = torch.zeros(len(problem.dilations), problem.c_out, problem.c_in, 3, 3, dtype=problem.dtype)
    taps, bias = pack_taps(weight, problem.dilations), torch.zeros(problem.c_out)
    out = launch(x, taps, bias, problem.dilations)
    loads, (stored, unique_stored) = [traffic.loaded(tensor) for tensor in (x, taps, bias)], traffic.stored(out)
    assert stored == unique_stored == out.nbytes
    assert sum(total for total, _ in loads) + stored == problem.moved_bytes
    assert loads[0][1] == x.nbytes and loads[2][1] == bias.nbytes
    assert sum(unique for _, unique in loads) + stored <= problem.compulsory_bytes
    assert 2 * traffic.multiply_adds == problem.executed_flops


def test_dead_taps_are_skipped_on_the_maps_of_the_paper() -> None:
    assert mean(problem.flops / problem.dense_flops for problem in PAPER_224) == pytest.approx(0.566, abs=5e-4)
    assert mean(problem.executed_flops / problem.dense_flops for problem in PAPER_224) <= 0.72
    assert mean(problem.executed_flops / problem.written_flops for problem in PAPER_224) <= 0.6
