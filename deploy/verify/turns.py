"""Time operations in turns, so that what else the machine does meets all of them alike."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

Operation = Callable[[], float]
"""Do the work once and return the seconds that it took."""

Say = Callable[[str], None]
POLL, POLLS = 0.001, 200  # seconds between two looks at the threads, and the most looks
SILENCE = 15.0  # seconds without a word about the rounds


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Choose how often a group takes turns.

    most: rounds if they fit into `seconds`.
    fewest: rounds in any case.
    seconds: after which no round begins.
    warm_up: rounds before them, which are not kept. Opening an engine has run it already.
    """

    most: int = 100
    fewest: int = 10
    seconds: float = 20.0
    warm_up: int = 1


def timed(work: Callable[[], object]) -> Operation:
    """Make an operation of a call."""

    def operation() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return operation


def settle() -> None:
    """Wait until the other threads of this process sleep, or for 0.2 s at most."""
    # PyTorch's threads spin for 4 ms after a run and OpenVINO's for 1 ms, at the cost of whatever comes next. Their
    # state is asked for and not the CPU time that they take, because on a busy machine they may have to wait for it.
    own = str(threading.get_native_id())
    for _ in range(POLLS):
        if not any(_runs(task) for task in Path("/proc/self/task").iterdir() if task.name != own):
            return
        time.sleep(POLL)


def _runs(task: Path) -> bool:
    # A thread may end between the listing and the reading.
    with suppress(OSError):
        # The name, in brackets, may hold anything. The state follows it.
        return (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "R"
    return False


def take_turns(operations: Mapping[str, Operation], rounds: Rounds, say: Say) -> dict[str, list[float]]:
    """Run each operation once a round, in random order, and return the seconds of each."""
    order = random.Random(0)

    def one_round() -> dict[str, float]:
        seconds = {}
        for name in order.sample(list(operations), len(operations)):
            settle()
            seconds[name] = operations[name]()
        return seconds

    for _ in range(rounds.warm_up):
        one_round()
    kept: list[dict[str, float]] = []
    begun = told = time.perf_counter()
    while len(kept) < rounds.most and (len(kept) < rounds.fewest or time.perf_counter() - begun < rounds.seconds):
        kept.append(one_round())
        if time.perf_counter() - told > SILENCE:
            told = time.perf_counter()
            say(f"round {len(kept)} done after {told - begun:.0f} s")
    return {name: [one[name] for one in kept] for name in operations}
