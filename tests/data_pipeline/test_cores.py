"""Test that the cores of a container are counted, with files as the kernel shows them in each kind of container."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from data_pipeline import cores as module
from data_pipeline.cores import cores

Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a function that makes a machine of eight cores with control groups."""

    def make(own: str, limits: Mapping[str, str], affinity: int = 8) -> None:
        (tmp_path / "own").write_text(own)
        for name, content in limits.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content + "\n")
        monkeypatch.setattr(module, "_OWN", tmp_path / "own")
        monkeypatch.setattr(module, "_CGROUPS", tmp_path)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(affinity)))

    return make


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "3200000 100000"}, 8),
        # The narrowest of a service's own group and those above it.
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        # Version 1, where a container sees its own group at the root, and -1 is no limit.
        (
            "4:cpu,cpuacct:/docker/x\n3:memory:/docker/x\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "150000", "cpu,cpuacct/cpu.cfs_period_us": "50000"},
            3,
        ),
        (
            "4:cpu,cpuacct:/\n3:memory:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            8,
        ),
        ("3:memory:/\n", {"memory/cpu.max": "100000 100000"}, 8),
    ],
)
def test_quota_limits_the_cores(machine: Machine, own: str, limits: Mapping[str, str], expected: int) -> None:
    machine(own, limits)
    assert cores() == expected


def test_affinity_limits_the_cores(machine: Machine) -> None:
    machine("0::/\n", {"cpu.max": "400000 100000"}, affinity=3)
    assert cores() == 3


def test_a_machine_without_control_groups(machine: Machine, tmp_path: Path) -> None:
    machine("0::/\n", {})
    (tmp_path / "own").unlink()
    assert cores() == 8


def test_this_machine() -> None:
    assert 1 <= cores() <= len(os.sched_getaffinity(0))
