"""Run `python -m deploy.tune` on a real server, and interrupt it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

import deploy.tune
from deploy.server.model_configs import read_repository
from deploy.server.options import ServerOptions, Workers
from deploy.server.release import Release
from deploy.tune import main
from deploy.tuning.load import LoadGenerator, measured_server


def test_the_best_choice_is_written_and_served(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, output = tmp_path / "model_repository", tmp_path / "tune"
    shutil.copytree(repository, copy)
    # Two choices, to be short.
    monkeypatch.setattr(deploy.tune, "grid", lambda cores: [Workers(1, 1), Workers(2, 1)])
    started = []

    @contextmanager
    def counted(folder: Path, choice: Workers) -> Iterator[LoadGenerator]:
        started.append(choice)
        if len(started) == 2:
            raise KeyboardInterrupt
        with measured_server(folder, choice) as load:
            yield load

    monkeypatch.setattr(deploy.tune, "measured_server", counted)
    arguments = ["--repository", str(copy), "--output", str(output), "--seconds", "0.05"]
    assert main(arguments) == 130
    measured = json.loads((output / "tune.json").read_text())["points"]
    assert [one["workers"] for one in measured] == [1, 1, 1]
    # Only what was not measured is, and what is chosen is served.
    assert main(arguments) == 0
    assert started == [Workers(1, 1), Workers(2, 1), Workers(2, 1)]
    figures = json.loads((output / "tune.json").read_text())
    assert figures["points"][:3] == measured
    assert all(one["answers"] > 0 and one["p50_ms"] <= one["p99_ms"] for one in figures["points"])
    assert f"{max(one['rate'] for one in figures['points']):.1f}" in capsys.readouterr().out
    Image.open(output / "tune.png").verify()
    chosen = json.loads((copy / "tuning.json").read_text())["tuned"]
    assert chosen == figures["chosen"]["tuned"]
    release = Release(copy, ServerOptions())
    release.close()
    assert release.workers == Workers(**chosen)
    # Measured already, another limit needs no server. One that nothing keeps is one line, and changes nothing.
    assert main([*arguments, "--p99-ms", "0.01"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: no choice keeps the 99th percentile within 0.01 ms: the lowest is ")
    assert json.loads((copy / "tuning.json").read_text())["tuned"] == chosen
    assert len(started) == 3
    # It is still the repository that was verified.
    assert read_repository(copy).keys() == {"resformer", "resformer_network"}


def test_no_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--repository", str(tmp_path / "none")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: no model repository at {tmp_path / 'none'}: run python -m deploy.build_engine first"
