"""Check what a run's JSON says about machine and commit, and what a comparison says about two machines."""

import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.plugin import get_cpu_info

from bench.machine import commit, describe, differences
from tests.helpers.imports import ROOT


def described(hertz: int) -> dict[str, Any]:
    """Complete the info of a machine whose clock ran at so many hertz just now."""
    info: dict[str, Any] = {"cpu": {"hz_actual": [hertz, 0], "hz_actual_friendly": f"{hertz} Hz"}}
    describe(info)
    return info


def test_two_runs_on_one_machine_have_the_same_info() -> None:
    assert described(2_600_000_000) == described(2_599_999_000)


def test_the_info_names_instructions_and_versions() -> None:
    info = described(1)["resformer"]
    assert set(info["features"].split()) <= set(get_cpu_info()["flags"])
    assert ("avx2" in info["features"].split()) == ("avx2" in get_cpu_info()["flags"])
    assert info["versions"]["torch"] == version("torch")
    assert info["versions"]["openvino"] == version("openvino")


def test_a_comparison_names_what_differs() -> None:
    now, saved = described(1), described(1)
    assert differences(now, saved) == []
    now["resformer"]["features"] = "avx2 amx_int8"
    saved["resformer"]["features"] = "avx2"
    saved["resformer"]["versions"]["torch"] = "1.0"
    assert differences(now, saved) == ["features avx2, now avx2 amx_int8", f"torch 1.0, now {version('torch')}"]
    # A run of before there were versions in the JSON.
    assert f"torch unknown, now {version('torch')}" in differences(now, {})


def test_the_commit_is_this_projects_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    head = subprocess.run(command, capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("this copy of the project is no git checkout")
    assert commit()["id"] == head.stdout.strip()
