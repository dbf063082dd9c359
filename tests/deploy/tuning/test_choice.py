"""Test what `deploy.tune` measures and how it chooses, without a server."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from data_pipeline.cores import cores, processor
from deploy.errors import ServerError
from deploy.files import TUNING
from deploy.server.options import Tuning, Workers
from deploy.server.tuning import Tuned, choose, presets, write_tuning
from deploy.tuning import Point, best, callers_for, grid, quickest


def point(workers: int, threads: int, callers: int, rate: float, p99_ms: float) -> Point:
    """Make a point whose median is half of its 99th percentile."""
    return Point(
        workers=workers, threads=threads, callers=callers, answers=100, rate=rate, p50_ms=p99_ms / 2, p99_ms=p99_ms
    )


POINTS = [
    point(1, 4, 1, rate=20, p99_ms=50),
    point(1, 4, 4, rate=22, p99_ms=200),
    point(2, 2, 1, rate=15, p99_ms=70),
    point(2, 2, 4, rate=39.5, p99_ms=120),
    point(4, 1, 1, rate=9, p99_ms=110),
    point(4, 1, 8, rate=40, p99_ms=260),
]


@pytest.mark.parametrize("most", range(1, 17))
def test_the_grid_uses_the_cores_and_no_more(most: int) -> None:
    choices = grid(most)
    assert all(1 <= choice.workers * choice.threads <= most for choice in choices)
    assert {Workers(1, most), Workers(most, 1), Workers(1, 1)} <= set(choices)
    assert len(set(choices)) == len(choices)


def test_callers_are_alone_one_a_worker_and_more() -> None:
    assert callers_for(1) == [1, 2, 4]
    assert callers_for(4) == [1, 4, 8, 16]


def test_the_most_answers_with_the_fewest_workers_among_equals() -> None:
    # 39.5 is within the noise of 40, at half the memory.
    assert best(POINTS, None).choice == Workers(2, 2)
    far = [replace(one, rate=50.0) if one.callers == 8 else one for one in POINTS]
    assert best(far, None).choice == Workers(4, 1)


def test_a_limit_leaves_out_what_is_slower() -> None:
    assert best(POINTS, 100) == POINTS[0]
    assert best(POINTS, 120) == POINTS[3]
    with pytest.raises(ServerError) as error:
        best(POINTS, 49.9)
    assert str(error.value) == (
        "no choice keeps the 99th percentile within 49.9 ms: the lowest is 50.0 ms, "
        "with 1 worker of 4 threads and 1 caller"
    )


def test_the_quickest_is_taken_alone() -> None:
    crowded = replace(POINTS[0], callers=2, p50_ms=1.0)
    assert quickest([crowded, *POINTS]) == POINTS[0]


@pytest.fixture
def tuned() -> Tuned:
    """Return what was found on this machine."""
    choices = {"tuned": Workers(3, 2), "latency": Workers(1, 5), "throughput": Workers(6, 1)}
    return Tuned(sha256="abc", processor=processor(), cores=cores(), **choices)


def test_the_server_takes_what_was_found(tmp_path: Path, tuned: Tuned) -> None:
    write_tuning(tmp_path, tuned)
    assert choose(tmp_path, "abc", "tuned") == Workers(3, 2)
    assert choose(tmp_path, "abc", "latency") == Workers(1, 5)
    assert choose(tmp_path, "abc", "throughput") == Workers(6, 1)
    assert choose(tmp_path, "abc", Workers(9, 9)) == Workers(9, 9)


@pytest.mark.parametrize("change", [{"sha256": "other"}, {"processor": "other"}, {"cores": 999}])
@pytest.mark.parametrize("tuning", ["tuned", "latency", "throughput"])
def test_what_was_found_for_another_network_or_machine_is_not_taken(
    tmp_path: Path, tuned: Tuned, change: dict[str, str], tuning: Tuning
) -> None:
    write_tuning(tmp_path, replace(tuned, **change))  # type: ignore[arg-type]
    assert choose(tmp_path, "abc", tuning) == presets()[tuning]


@pytest.mark.parametrize("number", ['"2"', "2.0", "null", "1000000000000", "0", "-1", "true"])
def test_numbers_of_workers_that_are_none_count_as_none(tmp_path: Path, tuned: Tuned, number: str) -> None:
    write_tuning(tmp_path, tuned)
    text = (tmp_path / TUNING).read_text()
    (tmp_path / TUNING).write_text(re.sub(r'"workers": \d+', f'"workers": {number}', text))
    assert choose(tmp_path, tuned.sha256, "tuned") == presets()["tuned"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"tuned": 3}', "nonsense", "[" * 100_000])
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / TUNING).write_text(content)
    assert choose(tmp_path, "abc", "tuned") == Workers(1, cores())
