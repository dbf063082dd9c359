"""Time the two kernels on a GPU at the stages of the paper, next to their peers.

The measurement is that of `python -m bench.gpu`: every contender is held to float64 before it is timed, and the rounds
of a benchmark are those of its CUDA graph with the L2 emptied before each.

python -m pytest bench/test_kernels.py --benchmark-only -m gpu
"""

from collections.abc import Callable, Sequence
from functools import cache, partial

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.gpu import attention, dilated
from bench.gpu.session import Row, Session
from bench.gpu.timing import Timing, Work, time_on_gpu
from bench.turns import keep
from kernels.cost_model import AttentionProblem, DilatedProblem

pytestmark = pytest.mark.gpu
# What `launched` and `compiled` of the two modules measure, in this order.
ATTENTION = ("ours", "eager", *attention.BACKENDS, "FlexAttention", "torch.compile")
DILATED = ("ours", "eager", "cuDNN, channels-last", "torch.compile")
Measured = dict[str, tuple[Row, Timing]]
NO_TIME = Timing(microseconds=())


def _measured(works: Sequence[Callable[[Session], None]]) -> Measured:
    """Measure all contenders of a case, and return the row and the rounds of each."""
    found: Measured = {}
    latest = [NO_TIME]

    def timer(work: Work, *, graph: bool) -> Timing:
        latest[0] = time_on_gpu(work, graph=graph)
        return latest[0]

    def write(row: Row) -> None:
        found[row.contender] = (row, latest[0] if row.state == "measured" else NO_TIME)

    session = Session(write=write, timer=timer)
    for work in works:
        work(session)
    return found


# The first benchmark of a case measures all of its contenders.
@cache
def measured_attention(case: attention.AttentionCase) -> Measured:
    """Measure the contenders of attention."""
    return _measured([partial(work, cases=(case,)) for work in (attention.launched, attention.compiled)])


@cache
def measured_dilated(case: dilated.DilatedCase) -> Measured:
    """Measure the contenders of the dilated fusion."""
    return _measured([partial(work, cases=(case,)) for work in (dilated.launched, dilated.compiled)])


def take(
    benchmark: BenchmarkFixture, found: Measured, contender: str, problem: AttentionProblem | DilatedProblem, group: str
) -> None:
    """Fill in the rounds of one contender.

    Bytes and FLOPs are the compulsory ones of the problem, whichever contender runs.
    """
    row, timing = found[contender]
    assert row.state != "wrong", row.reason
    assert row.state != "failed" or contender != "ours", row.reason
    if row.state == "failed":
        pytest.skip(row.reason)
    benchmark.group = group
    benchmark.pedantic(lambda: None)
    keep(benchmark, [one / 1e6 for one in timing.microseconds])
    benchmark.extra_info.update(
        gpu=torch.cuda.get_device_name(),
        clocks=row.clocks,
        error=row.error,
        compulsory_bytes=problem.compulsory_bytes,
        gigabytes_per_second=problem.compulsory_bytes / timing.median / 1e3,
        teraflops=problem.flops / timing.median / 1e6,
    )


@pytest.mark.parametrize("contender", ATTENTION)
@pytest.mark.parametrize("case", attention.CASES, ids=str)
def test_attention(benchmark: BenchmarkFixture, case: attention.AttentionCase, contender: str) -> None:
    problem = AttentionProblem(
        batch=case.batch,
        height=case.size,
        width=case.size,
        num_heads=case.heads,
        head_dim=case.head_dim,
        window_size=case.window,
        shift_size=case.shift,
        dtype=case.dtype,
    )
    take(benchmark, measured_attention(case), contender, problem, f"attention, {case}")


@pytest.mark.parametrize("contender", DILATED)
@pytest.mark.parametrize("case", dilated.CASES, ids=str)
def test_dilated_fusion(benchmark: BenchmarkFixture, case: dilated.DilatedCase, contender: str) -> None:
    problem = DilatedProblem(
        batch=case.batch,
        height=case.size,
        width=case.size,
        c_in=case.channels,
        c_out=case.channels,
        dilations=case.dilations,
        dtype=case.dtype,
    )
    take(benchmark, measured_dilated(case), contender, problem, f"dilated fusion, {case}")
