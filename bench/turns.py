"""Time contenders in turns, so that what else the machine does meets all of them alike.

The first benchmark of a group has the whole group measured. Each benchmark of it then takes its own rounds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from deploy.verify.turns import Operation, Rounds, Say, take_turns

Done = TypeVar("Done", bound=Operation)


class UnavailableError(Exception):
    """Say why a contender cannot run here."""


ROUNDS = Rounds()


@dataclass(frozen=True)
class Measured(Generic[Done]):
    """Hold an operation and the seconds of its rounds."""

    operation: Done
    seconds: list[float]


Openers = Mapping[str, Callable[[], Operation]]
Members = Mapping[str, Measured[Any] | Exception]


class Groups:
    """Measure each group once, when the first of its benchmarks asks."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._latest = ""
        self._members: Members = {}

    def measure(self, group: str, openers: Openers, rounds: Rounds) -> Members:
        """Return the members of a group by name: what was measured of each, or what its opening raised."""
        # The latest group alone is kept, so that the memory of the others' engines is free again.
        if group != self._latest:
            self._members = {}
            self._members, self._latest = self._measure(group, openers, rounds), group
        return self._members

    def _measure(self, group: str, openers: Openers, rounds: Rounds) -> Members:
        opened: dict[str, Operation] = {}
        failed: dict[str, Exception] = {}
        for number, (name, opener) in enumerate(openers.items(), 1):
            self._say(f"{group}: opening {name} ({number} of {len(openers)})")
            try:
                opened[name] = opener()
                # What does not run at all is found out here, before the others have to wait for it.
                opened[name]()
            # Whatever it is, it is the failure of this contender's benchmark and of no other.
            except Exception as error:
                failed[name] = error
                opened.pop(name, None)
        self._say(f"{group}: timing {len(opened)} in turns")
        try:
            seconds = take_turns(opened, rounds, lambda text: self._say(f"{group}: {text}"))
        # No round is whole then. Without this every benchmark of the group would wait for the same end.
        except Exception as error:
            return {**failed, **dict.fromkeys(opened, error)}
        return {**failed, **{name: Measured(operation, seconds[name]) for name, operation in opened.items()}}


@dataclass(frozen=True)
class Turn:
    """Give one benchmark its own part of its group's rounds.

    benchmark: pytest-benchmark's fixture.
    name: the benchmark's contender.
    selected: the contenders of its group that pytest was asked for. No other is opened.
    groups: of the session.
    """

    benchmark: BenchmarkFixture
    name: str
    selected: frozenset[str]
    groups: Groups

    def measure(self, group: str, openers: Mapping[str, Callable[[], Done]], rounds: Rounds = ROUNDS) -> Done:
        """Measure the group if this was not done yet, fill in the contender's rounds, and return its operation.

        Skips the test where the contender is `UnavailableError`.

        Args:
            group: title of the group, which no other test uses.
            openers: what returns each contender's operation.
            rounds: how often they take turns.
        """
        self.benchmark.group = group
        try:
            measured = self._measured(group, openers, rounds)
        except UnavailableError as reason:
            pytest.skip(str(reason))
        self.benchmark.pedantic(measured.operation)
        keep(self.benchmark, measured.seconds)
        return measured.operation

    def _measured(self, group: str, openers: Mapping[str, Callable[[], Done]], rounds: Rounds) -> Measured[Done]:
        # With --benchmark-disable the operation runs once, and nothing is timed.
        if not self.benchmark.enabled:
            return Measured(openers[self.name](), [])
        wanted = {name: opener for name, opener in openers.items() if name in self.selected}
        member = self.groups.measure(group, wanted, rounds)[self.name]
        if isinstance(member, Exception):
            raise member
        return member


def turn_of(request: pytest.FixtureRequest, benchmark: BenchmarkFixture, groups: Groups) -> Turn:
    """Give a test that is parametrised by `contender` its part of its group's rounds.

    Its group are the selected tests of the same function whose other parameters are the same.
    """
    own: dict[str, Any] = request.node.callspec.params
    selected = {
        str(item.callspec.params["contender"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.function is request.function
        and item.callspec.params | {"contender": own["contender"]} == own
    }
    return Turn(benchmark, own["contender"], frozenset(selected), groups)


def keep(benchmark: BenchmarkFixture, seconds: Sequence[float]) -> None:
    """Make `seconds` the rounds of a benchmark, in place of what pytest-benchmark has just timed itself."""
    # With --benchmark-disable there are no statistics.
    if benchmark.stats is None:
        return
    benchmark.stats.stats.data.clear()
    for one in seconds:
        benchmark.stats.update(one)
    benchmark.extra_info.update(percentiles_ms(seconds))


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return the 90th and 99th percentile in ms, each where enough rounds say something about it."""
    # One in ten rounds lies beyond the first, one in a hundred beyond the second: at least one such must be there.
    known = [percent for percent in (90, 99) if len(seconds) * (100 - percent) >= 100]
    return {f"p{percent}_ms": 1000 * float(np.percentile(seconds, percent)) for percent in known}
