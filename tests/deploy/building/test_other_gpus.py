"""Test what a build makes of engines of another GPU than this machine's."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.building import cache
from deploy.network.parity import Parity
from deploy.report import read_report, write_report
from tests.deploy.conftest import Built

RTX = "tensorrt-rtx"


def test_an_engine_that_was_verified_on_a_gpu_stays_without_a_time(built: Built, tmp_path: Path) -> None:
    moved = Built(built.checkpoint, tmp_path / "out", built.root)
    shutil.copytree(built.output, moved.output)
    report = read_report(moved.output)
    assert report is not None
    exact = Parity(mask=0.0, classification=0.0, segmentation=0.0)
    verified = [replace(one, parity=exact, latency_ms=1.0) for one in report.engines if one.target == RTX]
    others = [one for one in report.engines if one.target != RTX]
    assert verified
    write_report(moved.output, replace(report, engines=(*others, *verified)))
    (moved.output / "openvino.fp32.bin").unlink()
    assert moved.again("--max-batch", "4", "--target", "openvino", "--precision", "fp32") == 0
    after = read_report(moved.output)
    assert after is not None
    kept = {one.file: one for one in after.engines if one.target == RTX}
    assert kept == {one.file: replace(one, latency_ms=None) for one in verified}


def test_engines_for_a_gpu_are_made_again_on_another_one(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Built(built.checkpoint, tmp_path / "out", built.root)
    shutil.copytree(built.output, moved.output)
    monkeypatch.setattr(cache, "name_here", lambda: "another GPU")
    assert moved.again("--max-batch", "4") == 0
    before, after = read_report(built.output), read_report(moved.output)
    assert before is not None and after is not None
    keys, changed = ({one.name: one.key for one in report.engines} for report in (before, after))
    assert {name for name in keys if keys[name] != changed[name]} == {
        one.name for one in after.engines if one.target == RTX
    }
