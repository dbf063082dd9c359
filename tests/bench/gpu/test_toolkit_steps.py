"""Run what the steps for DALI, TensorRT and the server do, as far as a machine without a GPU can."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.gpu import engines, serving
from bench.gpu.decoding import decode
from bench.gpu.engines import build_arguments, time_engine
from bench.gpu.networks import NetworkCase
from bench.gpu.serving import load, running, server_command
from bench.gpu.session import Row
from bench.photographs import photograph_folder
from deploy.build_engine import parse_arguments
from deploy.report import EngineRecord
from model import PRESETS
from tests.bench.gpu.tiny import session
from tests.helpers.imports import ROOT

CASES = [NetworkCase(name="tiny", config=PRESETS["tiny"], batch=batch, dtype=torch.float16) for batch in (1, 2)]


def record(**options: Any) -> EngineRecord:
    """Make the record of an engine."""
    fields = {"target": "tensorrt", "precision": "fp16", "file": "a.engine", "tool": "t", "key": "k"}
    return EngineRecord(**fields | options)


def timed(engine: EngineRecord, plan: Any) -> list[Row]:
    rows: list[Row] = []
    time_engine(session(rows.append), "TensorRT", CASES, engine, lambda record: plan)
    return rows


def test_a_decoder_is_held_to_the_one_of_the_cpu_and_timed() -> None:
    rows: list[Row] = []
    decode(session(rows.append), batches=(2,), devices=("cpu",))
    (row,) = rows
    assert (row.state, row.contender) == ("measured", "DALI on the CPU, 4 threads")
    assert row.median_us is not None
    assert row.figures["images/s"] == pytest.approx(2e6 / row.median_us)
    assert row.figures["mean difference"] == 0


def test_a_decoder_that_differs_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.5, 0.0])
    monkeypatch.setattr(
        "bench.gpu.decoding._opened", lambda device, encoded: (lambda value: lambda: np.full(3, value))(next(values))
    )
    rows: list[Row] = []
    decode(session(rows.append), batches=(2,), devices=("gpu",))
    assert [(row.state, row.contender) for row in rows] == [("wrong", "DALI on the GPU")]
    assert "it differs by 0.500" in rows[0].reason


def test_an_engine_is_run_with_each_batch_and_its_recorded_launch_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    launched: list[int] = []

    class Plan:
        """Imitate the runner of a plan."""

        stream, batches = None, dict[int, Any]()

        def __call__(self, images: "np.ndarray[Any, Any]") -> None:
            rows = len(images)
            assert images.shape[1:] == (3, 128, 128) and images.dtype == np.float32
            self.batches[rows] = SimpleNamespace(launch=lambda: launched.append(rows))

    rows = timed(record(), Plan())
    assert [row.case for row in rows] == [str(case) for case in CASES]
    assert [row.state for row in rows] == ["measured", "measured"]
    assert launched == [1, 2]


def test_an_engine_that_the_build_refused_is_wrong_and_not_opened() -> None:
    rows = timed(record(refused="it loses 0.1 of Dice"), None)
    assert {(row.state, row.reason) for row in rows} == {("wrong", "the build refused it: it loses 0.1 of Dice")}
    rows = timed(record(), None)
    assert {(row.state, row.reason) for row in rows} == {("failed", "it was built, and there is no runner for it here")}


@pytest.mark.parametrize("options", [(), ("--plugins",)])
def test_the_command_of_a_build_is_one_that_the_command_takes(options: Sequence[str]) -> None:
    parsed = parse_arguments(build_arguments("paper-224", "tensorrt", 32, Path("out"), *options))
    assert (parsed.target, parsed.precision, parsed.max_batch) == (["tensorrt"], "fp16", 32)
    assert parsed.plugins == bool(options)


def test_a_build_that_fails_is_a_row_with_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engines, "OUTPUT", tmp_path)
    monkeypatch.setattr(engines, "NAMES", ("tiny",))
    rows: list[Row] = []
    # This machine has no GPU, or no TensorRT, or takes no batch of plugins.
    engines._measure(session(rows.append), "TensorRT", "tensorrt", (1, 8), "--plugins")
    assert [row.state for row in rows] == ["failed", "failed"]
    assert rows[0].reason.startswith("RuntimeError: error: ")


def test_the_server_is_a_local_one_or_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name)
    environment, *local = server_command(tmp_path, 7, "GPU-1")[1:]
    assert environment == "CUDA_VISIBLE_DEVICES=GPU-1"
    assert local[:2] == ["tritonserver", f"--model-repository={tmp_path}"]
    monkeypatch.setattr("shutil.which", lambda name: None)
    command = server_command(tmp_path, 7, "GPU-1")
    assert command[:2] == ["docker", "run"] and command[command.index("--gpus") + 1] == "device=GPU-1"
    assert f"{tmp_path}:/models:ro" in command and "127.0.0.1:7:8001" in command


def test_a_server_ends_with_its_block(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(KeyError), running(["sh", "-c", f"echo $$ > {file}; exec sleep 600"]):
        while not (file.exists() and file.read_text()):
            time.sleep(0.01)
        raise KeyError
    assert not Path(f"/proc/{int(file.read_text())}").exists()


class FakeClient:
    """Imitate the client of a server that answers with one mask."""

    mask: Any = None

    def __init__(self, url: str, retry_for: float) -> None:
        self.url = url

    def __enter__(self) -> "FakeClient":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def segment(self, data: bytes) -> Any:
        return SimpleNamespace(mask=self.mask)


@pytest.mark.parametrize(("moved", "state"), [(0, "measured"), (1, "wrong")])
def test_a_served_mask_is_compared_before_the_load(moved: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "Client", FakeClient)
    image = (photograph_folder("1024x768") / "0.jpg").read_bytes()
    expected = serving.expected_mask(image)
    assert expected.dtype == np.uint8
    monkeypatch.setattr(FakeClient, "mask", expected ^ moved)
    rows: list[Row] = []
    load(session(rows.append), "nowhere", requests=4, callers=(1, 2))
    assert [row.state for row in rows] == [state, state]


def run_tests(file: Path, deadline: str) -> list[str]:
    """Run the tests of a file in a process of their own, and return what was announced and written, in this order."""
    script = f"""
import json, sys, pytest
from bench.gpu.gpu_tests import RowPerTest
from tests.bench.gpu.tiny import session
write = lambda row: print("\\nrow", json.dumps(row.fields()))
one = session(write, announce=lambda row: print("\\nbegun", row.contender), deadline=float({deadline!r}))
pytest.main(["-q", "-p", "no:cacheprovider", {str(file)!r}], plugins=[RowPerTest(one)])
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in ended.stdout.splitlines() if line.startswith(("row ", "begun "))]


def test_tests_become_rows_as_soon_as_they_end(tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): assert 1 == 2\n"
        "@pytest.mark.skip(reason='no gpu')\ndef test_other(): pass\n"
        "@pytest.fixture\ndef broken(): raise KeyError\ndef test_error(broken): pass\n"
    )
    said = run_tests(file, "inf")
    assert [line.split()[0] for line in said] == ["begun", "row"] * 4
    found = {row.contender: row for row in (Row(**json.loads(line[4:])) for line in said[1::2])}
    states = {name: row.state for name, row in found.items()}
    assert states == {"test_good": "measured", "test_bad": "failed", "test_other": "left out", "test_error": "failed"}
    assert found["test_bad"].reason == "assert 1 == 2"
    assert found["test_other"].reason == "no gpu"
    late = [json.loads(line[4:]) for line in run_tests(file, "0")[1::2]]
    assert [row["state"] for row in late] == ["left out"] * 4
    assert late[0]["reason"] == "the step's time was used up"
