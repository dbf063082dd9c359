"""Compare the bytes and multiply-adds that the interpreter counts with the formulas of `kernels.cost_model`.

Both are held to upper limits as well.
"""

from collections.abc import Iterator
from statistics import mean

import pytest
import torch

from kernels import pack_taps, prepare_bias
from kernels.attention.triton_launch import launch_backward, launch_forward
from kernels.cost_model import AttentionProblem, DilatedProblem
from kernels.dilated import triton_launch
from kernels.dilated.triton_launch import launch
from tests.helpers.traffic import Traffic, recorded_traffic
from tests.kernels.conftest import ON_GPU

pytestmark = pytest.mark.skipif(
    ON_GPU, reason="counting needs the interpreter, which a process with a GPU does not run"
)
PAPER_224 = [
    DilatedProblem(
        batch=1,
        height=224 >> stage,
        width=224 >> stage,
        c_in=32 << stage,
        c_out=32 << stage,
        dilations=(6, 12, 18),
        dtype=torch.float16,
    )
    for stage in (1, 2, 3, 4)
]


@pytest.fixture
def traffic() -> Iterator[Traffic]:
    """Record what the kernels of a test move and multiply."""
    with recorded_traffic() as recorded:
        yield recorded


@pytest.mark.parametrize(
    "problem",
    [
        AttentionProblem(
            batch=1, height=14, width=28, num_heads=1, head_dim=16, window_size=14, shift_size=7, dtype=torch.float16
        ),
        AttentionProblem(
            batch=2, height=7, width=7, num_heads=2, head_dim=16, window_size=7, shift_size=0, dtype=torch.float32
        ),
        AttentionProblem(
            batch=1, height=4, width=8, num_heads=1, head_dim=32, window_size=4, shift_size=2, dtype=torch.bfloat16
        ),
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
    # The launch covers every output exactly once.
    assert stored == unique_stored == out.nbytes
    assert loaded + stored == problem.moved_bytes <= 2.5 * problem.compulsory_bytes
    assert rows.nbytes == problem.bias_bytes >= traffic.loaded(rows)[1] > 0
    read, modelled = traffic.loaded_once(rows, problem.iterations), problem.l2_bytes - problem.moved_bytes
    # With a shift, windows at the edge of the map read some rows of two kinds.
    assert modelled < read < 1.6 * modelled if shift else read == modelled
    assert 2 * traffic.multiply_adds == problem.executed_flops


@pytest.mark.parametrize("shift", [0, 7])
def test_the_backward_pass_adds_nothing_up_in_memory(shift: int, traffic: Traffic) -> None:
    problem = AttentionProblem(
        batch=2, height=14, width=28, num_heads=1, head_dim=16, window_size=14, shift_size=shift, dtype=torch.float16
    )
    qkv, out = (torch.zeros(2, 14, 28, channels, dtype=torch.float16) for channels in (48, 16))
    rows = prepare_bias(torch.zeros(27 * 27, 1), window_size=14, shift_size=shift, scale=0.25)
    qkv_grad, bias_grad = launch_backward(out, qkv, rows, out, 14, shift, 0.25)
    assert bias_grad.shape == rows.shape
    assert traffic.atomic_additions == 0
    statistics = 3 * 4 * 2 * 14 * 28
    assert traffic.stored_bytes == qkv_grad.nbytes + statistics + 4 * problem.bias_gradient_values


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(
    "problem",
    [
        DilatedProblem(batch=1, height=14, width=14, c_in=16, c_out=8, dilations=(6, 18), dtype=torch.float16),
        DilatedProblem(batch=2, height=3, width=6, c_in=20, c_out=70, dilations=(1, 3), dtype=torch.float32),
        DilatedProblem(batch=1, height=3, width=10, c_in=16, c_out=16, dilations=(2, 2, 40), dtype=torch.bfloat16),
    ],
    ids=lambda problem: f"{problem.height}x{problem.width}",
)
def test_dilated_traffic(
    problem: DilatedProblem, split: bool, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_launch, "ENOUGH_PROGRAMS", 96 if split else 1)
    x = torch.zeros(problem.batch, problem.height, problem.width, problem.c_in, dtype=problem.dtype)
    weight = torch.zeros(len(problem.dilations), problem.c_out, problem.c_in, 3, 3, dtype=problem.dtype)
    taps, bias = pack_taps(weight, problem.dilations), torch.zeros(problem.c_out)
    out = launch(x, taps, bias, problem.dilations)
    loads, (stored, unique_stored) = [traffic.loaded(tensor) for tensor in (x, taps, bias)], traffic.stored(out)
    assert stored == unique_stored == out.nbytes
    # With the parts of split sums, which are stored and loaded.
    assert traffic.moved_bytes == problem.l2_bytes
    assert loads[0][1] == x.nbytes and loads[2][1] == bias.nbytes
    # Not equal: taps that no tile needs are never loaded.
    assert sum(unique for _, unique in loads) + stored <= problem.compulsory_bytes
    assert 2 * traffic.multiply_adds == problem.executed_flops


def test_dead_taps_are_skipped_on_the_maps_of_the_paper() -> None:
    assert mean(problem.flops / problem.dense_flops for problem in PAPER_224) == pytest.approx(0.566, abs=5e-4)
    assert mean(problem.executed_flops / problem.dense_flops for problem in PAPER_224) <= 0.84
    assert mean(problem.executed_flops / problem.written_flops for problem in PAPER_224) <= 0.7


@pytest.mark.parametrize("problem", PAPER_224, ids=lambda problem: f"{problem.height}x{problem.width}")
def test_tiles_of_small_maps_occupy_a_gpu_and_read_little(problem: DilatedProblem) -> None:
    # Tiles of 4x8 pixels by 64 channels, which these maps had at 28 and 14 px, read 20 FLOPs a byte and fewer.
    assert problem.programs >= 96
    assert problem.executed_flops / problem.l2_bytes >= 42
