"""Time work on a GPU: CUDA events around each round, the L2 emptied before it, and as a CUDA graph where asked for."""

import gc
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

Work = Callable[[], object]

SECONDS = 0.15  # of one measurement, if that gives a number of rounds between the two below
FEWEST, MOST = 10, 500
WARM_UP = 0.05  # seconds of rounds that are not kept, in which the clocks rise
LEAST_FLUSHED = 256 << 20  # bytes, as triton.testing flushes
CLOCKS = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")
FRESH = 2.0  # seconds for which a sample of the clocks stands


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Hold what the rounds of one measurement took.

    microseconds: of each round, in ascending order.
    """

    microseconds: Sequence[float]

    @property
    def median(self) -> float:
        """Return the median in microseconds."""
        return statistics.median(self.microseconds)

    def quantile(self, share: float) -> float:
        """Return the round that `share` of the others are shorter than, in microseconds."""
        return self.microseconds[round(share * (len(self.microseconds) - 1))]


class Timer(Protocol):
    """Measure work that is queued on the current stream."""

    def __call__(self, work: Work, *, graph: bool) -> Timing:
        """Time `work`, captured as a CUDA graph or launched by Python each time."""


def time_on_gpu(work: Work, *, graph: bool) -> Timing:
    """Time `work` on the current device.

    Without a graph, rounds follow one another without a pause, so that the time is the larger of the GPU's and of
    Python's for launching.
    """
    operation = captured(work) if graph else work
    flush = torch.empty(_flushed_bytes(), dtype=torch.int8, device="cuda")

    def one_round() -> tuple[torch.cuda.Event, torch.cuda.Event]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        # While this runs, the launches of the work are queued: a short graph starts without a gap after it.
        flush.zero_()
        begin.record()
        operation()
        end.record()
        return begin, end

    one_round()
    torch.cuda.synchronize()
    start = time.perf_counter()
    one_round()
    torch.cuda.synchronize()
    seconds = max(time.perf_counter() - start, 1e-6)
    for _ in range(min(MOST, int(WARM_UP / seconds))):
        one_round()
    events = [one_round() for _ in range(max(FEWEST, min(MOST, int(SECONDS / seconds))))]
    torch.cuda.synchronize()
    return Timing(microseconds=sorted(1000 * begin.elapsed_time(end) for begin, end in events))


def captured(work: Work) -> Work:
    """Record `work` in a CUDA graph and return what replays it."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    # What is loaded, compiled or allocated on first use cannot be captured.
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    # Collecting a Triton kernel unloads its module, which would break the capture.
    gc.collect()
    gc.disable()
    try:
        with torch.cuda.graph(graph):
            work()
    finally:
        gc.enable()
    return graph.replay


def _flushed_bytes() -> int:
    return max(LEAST_FLUSHED, 2 * torch.cuda.get_device_properties("cuda").L2_cache_size)


class Clocks:
    """Sample the clocks of the GPU, no more often than every other second because each look takes up to 0.1 s."""

    def __init__(self) -> None:
        self._taken, self._sample = float("-inf"), dict[str, float]()

    def __call__(self) -> dict[str, float]:
        """Return MHz, degrees and watts by nvidia-smi's names, or nothing where it cannot be asked."""
        if time.monotonic() - self._taken > FRESH:
            self._sample, self._taken = sample_clocks(), time.monotonic()
        return self._sample


def current_gpu() -> str:
    """Return the current device's own name. Tools number all GPUs, and CUDA only the visible ones."""
    return f"GPU-{torch.cuda.get_device_properties('cuda').uuid}"


def sample_clocks() -> dict[str, float]:
    """Ask nvidia-smi once for the clocks of the current device."""
    if not shutil.which("nvidia-smi") or not torch.cuda.is_available():
        return {}
    query = ["nvidia-smi", "-i", current_gpu(), f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=10).stdout.split(",")
        return {name: float(value) for name, value in zip(CLOCKS, told, strict=True)}
    # A container may have the tool without its library, and some GPUs do not tell all of it.
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
