"""Time the two kernels on a GPU at the stages of the paper, next to eager PyTorch and torch.compile.

Every contender is validated before it is timed.

python -m pytest bench/test_kernels.py --benchmark-only -m gpu
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.kernels.stages import DILATIONS, HEAD_DIM
from kernels import Impl, dilated_fusion, pack_taps, prepare_bias, window_attention
from kernels.cost_model import AttentionProblem, DilatedProblem

pytestmark = pytest.mark.gpu
STAGES = [(size, stage) for size in (224, 512) for stage in (1, 2, 3, 4)]
CONTENDERS = ("triton", "eager", "compiled")
BATCH = 8
Call = Callable[[Impl], Tensor]
half = partial(torch.randn, device="cuda", dtype=torch.float16)


def measure(
    benchmark: BenchmarkFixture, call: Call, contender: str, problem: AttentionProblem | DilatedProblem, group: str
) -> None:
    """Validate and time one contender of a group by `call`, which takes an impl.

    Bytes and FLOPs are the compulsory ones of the problem, whichever contender runs.
    """
    benchmark.group = group
    expected = call("reference")
    run: Callable[[], Tensor] = partial(call, "triton" if contender == "triton" else "reference")
    if contender == "compiled":
        run = torch.compile(run)
    # In half precision: relative to the largest value, because small ones are sums that nearly cancel.
    tolerance = 0.02 * float(expected.abs().max())
    torch.testing.assert_close(run(), expected, rtol=0.02, atol=tolerance)

    def synchronised() -> None:
        run()
        # Launches are asynchronous: without this the launch alone would be timed.
        torch.cuda.synchronize()

    benchmark.pedantic(synchronised, rounds=50, iterations=4, warmup_rounds=10)
    assert benchmark.stats is not None
    seconds = benchmark.stats.stats.median
    benchmark.extra_info.update(
        gpu=torch.cuda.get_device_name(),
        compulsory_bytes=problem.compulsory_bytes,
        gigabytes_per_second=problem.compulsory_bytes / seconds / 1e9,
        teraflops=problem.flops / seconds / 1e12,
    )


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("image_size, stage", STAGES)
def test_attention(benchmark: BenchmarkFixture, image_size: int, stage: int, contender: str) -> None:
    size, channels, window = image_size >> stage, 32 << stage, image_size // 16
    # A map of one window has nothing to shift.
    heads, shift = channels // HEAD_DIM, window // 2 if size > window else 0
    qkv, table = half(BATCH, size, size, 3 * channels), half((2 * window - 1) ** 2, heads)
    # Prepared once, as in the deployed network. The preparation is not part of the call.
    rows = prepare_bias(table, window_size=window, shift_size=shift, scale=HEAD_DIM**-0.5)
    call = partial(window_attention, qkv, table, num_heads=heads, window_size=window, shift_size=shift, bias_rows=rows)
    problem = AttentionProblem(
        batch=BATCH,
        height=size,
        width=size,
        num_heads=heads,
        head_dim=HEAD_DIM,
        window_size=window,
        shift_size=shift,
        dtype=torch.float16,
    )
    group = f"attention, {image_size} px, stage {stage}"
    measure(benchmark, lambda impl: call(impl=impl), contender, problem, group)


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("image_size, stage", STAGES)
def test_dilated_fusion(benchmark: BenchmarkFixture, image_size: int, stage: int, contender: str) -> None:
    size, channels = image_size >> stage, 32 << stage
    x, bias = half(BATCH, size, size, channels), half(channels)
    weight = half(len(DILATIONS), channels, channels, 3, 3) / (27 * channels) ** 0.5
    call = partial(dilated_fusion, x, weight, bias, dilations=DILATIONS, taps=pack_taps(weight, DILATIONS))
    problem = DilatedProblem(
        batch=BATCH,
        height=size,
        width=size,
        c_in=channels,
        c_out=channels,
        dilations=DILATIONS,
        dtype=torch.float16,
    )
    group = f"dilated fusion, {image_size} px, stage {stage}"
    measure(benchmark, lambda impl: call(impl=impl), contender, problem, group)
