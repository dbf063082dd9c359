"""Test `from deploy import build`: what it returns, what it raises, and that it prints nothing."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich import get_console

import deploy
from deploy import BuildError, Report, build
from deploy.report import milliseconds, read_report
from tests.deploy.conftest import Built, working_directory

# As the fixture `built` was built by the command, so that a repeat of it finds everything current.
SAME: dict[str, Any] = {"max_batch": 4, "samples": 5}


def changed_files(built: Built) -> dict[Path, int]:
    """Return the modification times of everything that a build leaves."""
    return {file: file.stat().st_mtime_ns for file in built.output.rglob("*") if file.is_file()}


def test_a_repeat_returns_the_same_report_without_building(built: Built, capfd: pytest.CaptureFixture[str]) -> None:
    before = changed_files(built)
    with working_directory(built.root):
        report = build(built.checkpoint, built.output, **SAME)
    assert isinstance(report, Report)
    assert report == read_report(built.output)
    assert {engine.name for engine in report.engines} == {"onnx fp32", "openvino fp32", "tensorrt-rtx fp32"}
    assert report.served == min((engine for engine in report.engines if engine.latency_ms), key=milliseconds)
    assert changed_files(built) == before
    assert capfd.readouterr() == ("", "")


def test_a_repeat_need_not_wait_for_what_builds() -> None:
    # In a process of its own, because this one has loaded them. They take seconds to import.
    slow = {"nncf", "monai", "nvidia", "matplotlib", "torch._dynamo"}
    code = f"import sys, deploy.build_engine; print({slow} & sys.modules.keys())"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "set()"


def test_a_build_prints_nothing(built: Built, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "out"
    # In a new directory, where the validation images are not generated yet.
    with working_directory(tmp_path):
        report = build(str(built.checkpoint), str(output), targets=["onnx"], **{**SAME, "max_batch": 3})
    assert [engine.name for engine in report.engines] == ["onnx fp32"]
    assert (output / report.served.file).exists()
    assert capfd.readouterr() == ("", "")


def test_quantising_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # Random weights are verified and calibrated on noise, so that nothing is lost and nothing searched for.
    quiet = get_console().quiet
    report = build("random:tiny", tmp_path, targets=["onnx"], precision="int8", max_batch=1)
    assert [engine.name for engine in report.engines] == ["onnx fp32", "onnx int8"]
    assert capfd.readouterr() == ("", "")
    # As it was: commands that ran in this process before may have silenced it.
    assert get_console().quiet is quiet


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": ["tpu"]}, "^targets must be of onnx, openvino, .*, got tpu$"),
        ({"targets": []}, "^targets must be of onnx, .*, got none$"),
        ({"targets": "openvino"}, '^targets must be a list of names, as in \\["openvino"\\], got the text "openvino"$'),
        ({"targets": ["tensorrt"]}, "^tensorrt builds on the GPU it will run on, and this machine has none"),
        ({"precision": "fp4"}, "^precision must be one of fp32, .*, auto, got fp4$"),
        ({"targets": ["openvino"], "precision": "fp16"}, "^openvino builds fp32, bf16, int8, mixed, not fp16$"),
        ({"max_batch": 0}, "^max_batch must be 1 to 2147483647, got 0$"),
        ({"max_batch": 3_000_000_000}, "^max_batch must be 1 to 2147483647, got 3000000000$"),
        ({"threads": 100_000}, "^threads must be 1 to 1024, got 100000$"),
        ({"samples": 0}, "^samples must be 1 to 2147483647, got 0$"),
        ({"threads": 0}, "^threads must be 1 to 1024, got 0$"),
        ({"optimization_level": 6}, "^optimization_level must be 0 to 5, got 6$"),
        ({"targets": ["tensorrt-rtx"], "compute_capabilities": ["9.0"]}, "must be one of 7.5, .*, got 9.0$"),
        ({"plugins": True, "max_batch": 1}, "^--plugins needs --target tensorrt$"),
        ({"checkpoint": "absent.safetensors"}, "absent.safetensors does not exist"),
        ({"checkpoint": "random:huge"}, "preset must be one of paper-224"),
        ({"data": "synthetic:lung"}, "synthetic:lung"),
        ({"data": "folder:absent"}, "absent"),
        ({"data": "synthetic:oct"}, "must be the checkpoint's background, lesion; got background, IRF"),
        ({"output": "/proc/nowhere"}, "/proc/nowhere"),
    ],
    ids=lambda value: " ".join(map(str, value.items())) if isinstance(value, dict) else "",
)
def test_what_cannot_be_done_is_one_build_error(built: Built, arguments: dict[str, Any], message: str) -> None:
    before = changed_files(built)
    defaults = {"checkpoint": built.checkpoint, "output": built.output, **SAME}
    with working_directory(built.root), pytest.raises(BuildError, match=message) as caught:
        build(**{**defaults, **arguments})
    assert "\n" not in str(caught.value)
    assert changed_files(built) == before


def test_an_output_that_is_a_file_is_refused(built: Built, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with working_directory(built.root), pytest.raises(BuildError, match="out"):
        build(built.checkpoint, tmp_path / "out", **SAME)
    assert (tmp_path / "out").read_text() == "a file"


def test_everything_that_is_exported_can_be_imported() -> None:
    names: dict[str, object] = {}
    exec("from deploy import *", names)
    assert names.keys() >= set(deploy.__all__) == {"build", "BuildError", "Report"}
    with pytest.raises(AttributeError, match="module 'deploy' has no attribute 'nothing'"):
        deploy.nothing  # noqa: B018
