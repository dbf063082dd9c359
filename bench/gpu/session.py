"""Measure contenders of one case after another: each is held to float64 first, and a wrong one is not timed."""

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from bench.gpu.timing import Clocks, Timer, Timing, time_on_gpu
from kernels import Impl

State = Literal["measured", "wrong", "failed", "left out", "cut off"]
Run = Callable[[], Sequence[Tensor]]
Open = Callable[[], Run]
"""Prepare a contender, whatever that costs, and return what runs it once."""

# Of the error that eager PyTorch has in the same dtype, both against float64: the rule that the kernels' tests keep.
FACTOR = 2.0
AS_GRAPH: Mapping[str, bool] = {"": True}


@dataclass(frozen=True, kw_only=True)
class Row:
    """Hold what was found about one contender.

    table: the table of bench/README.md that it belongs to.
    case: shape, batch and dtype. Contenders of one case are compared with each other.
    contender: who did the work.
    state: whether there is a time, and if not, why.
    median_us: of the rounds. The next two are their 10 % and 90 % quantiles.
    rounds: number of rounds.
    error: root mean square error against float64, relative to the root mean square of the exact result.
    of_eager: error as a multiple of eager PyTorch's.
    clocks: of the GPU, by nvidia-smi's names.
    figures: other figures, by name.
    reason: why there is no time, in one line.
    """

    table: str
    case: str
    contender: str
    state: State = "measured"
    median_us: float | None = None
    low_us: float | None = None
    high_us: float | None = None
    rounds: int = 0
    error: float | None = None
    of_eager: float | None = None
    clocks: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    def with_time(self, timing: Timing, clocks: Mapping[str, float]) -> "Row":
        """Return the row with its time."""
        return replace(
            self,
            median_us=timing.median,
            low_us=timing.quantile(0.1),
            high_us=timing.quantile(0.9),
            rounds=len(timing.microseconds),
            clocks=dict(clocks),
        )

    def without_time(self, state: State, reason: str) -> "Row":
        """Return the row with the reason why it has no time."""
        return replace(self, state=state, reason=reason)

    def fields(self) -> dict[str, Any]:
        """Return the row as JSON holds it, which has neither NaN nor infinity."""
        values = asdict(self)
        return {
            name: None if isinstance(one, float) and not math.isfinite(one) else one for name, one in values.items()
        }


@dataclass(frozen=True)
class Reference:
    """Hold the exact results and what eager PyTorch makes of the same inputs.

    exact: results in float64.
    eager: the same results in the dtype of the case.
    joined: whether the results are judged together, each with the same weight. Where one has a few values, such as
        three logits, eager's error of it is by luck a fifth of what it usually is, and a right contender's then 5x.
    """

    exact: Sequence[Tensor]
    eager: Sequence[Tensor]
    joined: bool = False

    def compare(self, results: Sequence[Tensor]) -> tuple[float, float]:
        """Return the largest relative error of the results, and the largest multiple of eager's error.

        Raises ValueError where a result has another shape than the exact one, over which it would be spread.
        """
        for got, exact in zip(results, self.exact, strict=True):
            if got.shape != exact.shape:
                raise ValueError(f"a result has shape {tuple(got.shape)}, it must be {tuple(exact.shape)}")
        own, usual = (self._errors(each) for each in (results, self.eager))
        if self.joined:
            own, usual = [math.hypot(*own)], [math.hypot(*usual)]
        return _largest(own), _largest([_multiple(*pair) for pair in zip(own, usual, strict=True)])

    def _errors(self, results: Sequence[Tensor]) -> list[float]:
        pairs = zip(results, self.exact, strict=True)
        return [_rms(got.double() - exact) / _rms(exact) for got, exact in pairs]


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _multiple(own: float, usual: float) -> float:
    return own / usual if usual else 1.0 if own == 0 else math.inf


def _largest(values: Sequence[float]) -> float:
    # `max` would lose a NaN, which is the worst of errors.
    return math.nan if any(math.isnan(value) for value in values) else max(values)


@contextmanager
def _without_search() -> Iterator[None]:
    """Let cuDNN take the algorithms that it guesses: to time those in float64 would take longer than all else."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def compile_fresh(function: Callable[..., Any], mode: str | None = None) -> Callable[..., Any]:
    """Compile for the shapes of one case.

    Everything compiled before is forgotten: with it, the eighth shape of a function would run eagerly without a word.
    """
    torch.compiler.reset()
    compiled: Callable[..., Any] = torch.compile(function, dynamic=False, fullgraph=True, mode=mode)
    return compiled


@dataclass(kw_only=True)
class Session:
    """Measure on one device, until a deadline.

    write: takes each row as soon as it is known.
    announce: takes the row of what is begun, so that it can be named where the process ends meanwhile.
    device: where the tensors are.
    timer: times a contender.
    compile: torch.compile, or what stands for it.
    clocks: samples the GPU's clocks.
    ours: the implementation of our kernels in a network.
    deadline: on `time.monotonic`. No contender is begun after it.
    """

    write: Callable[[Row], None]
    announce: Callable[[Row], None] = lambda row: None
    device: torch.device = field(default_factory=lambda: torch.device("cuda"))
    timer: Timer = time_on_gpu
    compile: Callable[..., Callable[..., Any]] = compile_fresh
    clocks: Callable[[], dict[str, float]] = field(default_factory=Clocks)
    deadline: float = math.inf
    ours: Impl = "triton"

    @property
    def is_over(self) -> bool:
        """Tell whether the time is used up."""
        return time.monotonic() > self.deadline

    def measure(
        self,
        table: str,
        case: str,
        contenders: Mapping[str, Open],
        reference: Callable[[], Reference],
        *,
        pick: Callable[[Sequence[Tensor]], Sequence[Tensor]] = tuple,
        ways: Mapping[str, bool] = AS_GRAPH,
    ) -> None:
        """Open, check and time the contenders, one after the other.

        Args:
            table: the rows' table.
            case: the rows' case.
            contenders: by name.
            reference: computes what they are compared with, once.
            pick: takes what the reference holds from a contender's results.
            ways: by what is added to a contender's name, whether it is timed as a CUDA graph.
        """
        if self.is_over:
            self.leave_out(table, case, contenders)
            return
        try:
            with _without_search():
                expected = reference()
        except Exception as error:
            self._fail(table, case, contenders, error, "there is no reference: ")
            return
        for name, opener in contenders.items():
            if self.is_over:
                self.leave_out(table, case, [name])
                continue
            checked = Row(table=table, case=case, contender=name)
            self.announce(checked)
            try:
                run = opener()
                relative, of_eager = expected.compare(pick(run()))
                checked = replace(checked, error=relative, of_eager=of_eager)
                self._time(checked, run, ways)
            # Whatever it is, it is the failure of this contender and of no other.
            except Exception as error:
                self._fail(table, case, [name], error)
            self._free()

    def _time(self, checked: Row, run: Run, ways: Mapping[str, bool]) -> None:
        # Written this way round, because NaN compares false with everything.
        if not (checked.of_eager is not None and checked.of_eager <= FACTOR):
            reason = f"its error is {checked.of_eager:.3g} times eager's, and at most {FACTOR:g} times is right"
            self.write(checked.without_time("wrong", reason))
            return
        for addition, graph in ways.items():
            named = replace(checked, contender=f"{checked.contender}{addition}")
            self.announce(named)
            self.write(named.with_time(self.timer(run, graph=graph), self.clocks()))

    def leave_out(self, table: str, case: str, contenders: Iterable[str]) -> None:
        """Say of contenders that the time did not suffice for them."""
        for name in contenders:
            self.write(
                Row(table=table, case=case, contender=name, state="left out", reason="the step's time was used up")
            )

    def _fail(self, table: str, case: str, contenders: Iterable[str], error: Exception, what: str = "") -> None:
        for name in contenders:
            self.write(Row(table=table, case=case, contender=name, state="failed", reason=what + one_line(error)))
        self._survive(error)

    def _survive(self, error: Exception) -> None:
        """Raise the error where the device does not answer any more: after an illegal access nothing else can run."""
        if self.device.type != "cuda":
            return
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            raise error from None

    def _free(self) -> None:
        # The next contender needs the memory. What an error's trace holds is free only once it is collected.
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def one_line(error: Exception) -> str:
    """Say what kind of error it is, and the first line of its text."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:300]
