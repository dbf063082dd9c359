"""Describe the machine, the libraries and the commit that figures are measured with."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest
from pytest_benchmark.utils import get_commit_info

from bench import ROOT
from deploy.report import machine

LIBRARIES = ("numpy", "torch", "triton", "onnxruntime", "openvino", "nncf", "nvidia-dali-cuda130", "nvidia-pytriton")


def describe(info: dict[str, Any]) -> None:
    """Complete pytest-benchmark's `machine_info` with what speed depends on, and drop what differs in every run."""
    cpu = info["cpu"]
    # The clock of this very moment would make two runs on one machine differ.
    for name in ("hz_actual", "hz_actual_friendly"):
        cpu.pop(name, None)
    info["resformer"] = machine() | {"versions": {name: _version(name) for name in LIBRARIES}}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def commit() -> dict[str, Any]:
    """Describe this project's commit, wherever pytest was started."""
    # pytest-benchmark asks git about the working directory, which may be another project's.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        found: dict[str, Any] = get_commit_info()
    return found


def differences(now: dict[str, Any], saved: dict[str, Any]) -> list[str]:
    """List what differs between the machines of two runs, such as "torch 2.12.0, now 2.13.0"."""
    before, after = (_flat(info.get("resformer", {})) for info in (saved, now))
    return [
        f"{name} {before.get(name, 'unknown')}, now {value}"
        for name, value in after.items()
        if before.get(name) != value
    ]


def _flat(info: dict[str, Any]) -> dict[str, str]:
    named = {name: value for name, value in info.items() if isinstance(value, str)}
    return {**named, **info.get("versions", {})}
