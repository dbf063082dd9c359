"""Test what a build does about a damaged, killed or interrupted one: it repairs all of it, or leaves the last good one.

Whether a folder is whole is decided here by hashing every file anew, and not by the code under test.
"""

import errno
import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import deploy.building
from deploy import BuildError, build
from deploy.building import cache, commit
from deploy.building.plan import EngineSpec, Job
from deploy.engines.base import Precision
from deploy.files import DIRECTORY, GPU_DIRECTORY, TUNING
from deploy.report import Report, read_report, write_report
from deploy.server.model_configs import read_repository
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.deploy.conftest import Built, working_directory

Damage = Callable[[Path], object]


def is_whole(output: Path) -> bool:
    """Tell whether the report and every file that it names are as they were published."""
    report = json.loads((output / "report.json").read_text())
    digest = report.pop("digest")
    if digest != hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest():
        return False
    return all(
        (output / name).is_file() and hashlib.sha256((output / name).read_bytes()).hexdigest() == published
        for name, published in report["files"].items()
    )


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def network_in(output: Path) -> Path:
    """Return the served copy of the network."""
    files = (output / DIRECTORY / "resformer").glob("*/*")
    (network,) = [file for file in files if file.suffix in (".onnx", ".xml")]
    return network


def forge(output: Path) -> None:
    """Raise a score in the report by hand."""
    path = output / "report.json"
    report = json.loads(path.read_text())
    report["reference_scores"]["dice"] = 0.99
    path.write_text(json.dumps(report))


DAMAGES: dict[str, Damage] = {
    "configuration deleted": lambda output: (output / DIRECTORY / "resformer" / "config.pbtxt").unlink(),
    "configuration changed": lambda output: flip(output / DIRECTORY / "resformer_network" / "config.pbtxt"),
    "code of the server deleted": lambda output: (network_in(output).parent / "model.py").unlink(),
    "golden answers damaged": lambda output: flip(network_in(output).parent / "golden.npz"),
    "served copy damaged": lambda output: flip(network_in(output)),
    "served copy deleted": lambda output: network_in(output).unlink(),
    "repository deleted": lambda output: shutil.rmtree(output / DIRECTORY),
    "page deleted": lambda output: (output / "report.html").unlink(),
    "page damaged": lambda output: flip(output / "report.html"),
    "report deleted": lambda output: (output / "report.json").unlink(),
    "report cut": lambda output: os.truncate(output / "report.json", 100),
    "score forged": forge,
    "export damaged": lambda output: flip(output / "model.onnx"),
    "weights deleted": lambda output: (output / "openvino.fp32.bin").unlink(),
    "engine exchanged": lambda output: shutil.copy(output / "model.onnx", output / "tensorrt-rtx.fp32.engine"),
}


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Built:
    """Copy the finished build, to be damaged."""
    shutil.copytree(built.output, tmp_path / "out")
    return Built(built.checkpoint, tmp_path / "out", built.root)


@pytest.fixture
def state(copy: Built, monkeypatch: pytest.MonkeyPatch) -> Callable[..., cache.BuildState]:
    """Return a function that looks at the copy as a build of these arguments does before it begins."""

    def look(**arguments: Any) -> cache.BuildState:
        seen: list[Job] = []
        monkeypatch.setattr(deploy.building, "run", lambda job, console: seen.append(job))
        with working_directory(copy.root):
            build(copy.checkpoint, copy.output, **{"max_batch": 4, "samples": 5, **arguments})
            return cache.load(seen[0])

    return look


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_no_damage_counts_as_current(damage: Damage, copy: Built, state: Callable[..., cache.BuildState]) -> None:
    assert state().finished is not None
    damage(copy.output)
    assert state().finished is None


@pytest.mark.parametrize("name", ["served copy damaged", "weights deleted"])
def test_a_repeat_repairs_the_damage(name: str, copy: Built, capsys: pytest.CaptureFixture[str]) -> None:
    DAMAGES[name](copy.output)
    assert copy.again("--max-batch", "4") == 0
    assert is_whole(copy.output)
    read_repository(copy.output / DIRECTORY)
    capsys.readouterr()
    assert copy.again("--max-batch", "4") == 0
    assert "nothing has changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("package", "kept"), [("torch", set()), (cache.DECODER, set()), ("triton", {"model.onnx", "openvino.fp32.xml"})]
)
def test_an_engine_is_as_old_as_the_oldest_tool_behind_it(
    package: str, kept: set[str], state: Callable[..., cache.BuildState], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "version", lambda name: "99.0" if name == package else version(name))
    made_again = {spec.file for spec in state().missing}
    assert made_again == {"model.onnx", "openvino.fp32.xml", "tensorrt-rtx.fp32.engine"} - kept


def test_quantised_engines_depend_on_what_quantises_and_runs_them() -> None:
    def packages(target: str, precision: Precision) -> list[str]:
        return [tool.partition(" ")[0] for tool in cache._other_tools(EngineSpec(target, precision))]

    assert packages("onnx", "fp32") == []
    assert packages("onnx", "int8") == ["nncf"]
    assert packages("onnx", "bf16") == packages("openvino", "fp32") == ["openvino"]
    assert packages("tensorrt-rtx", "int8") == ["nncf", "triton"]


def test_an_engine_that_was_not_asked_for_is_repaired_with_the_others(
    copy: Built, state: Callable[..., cache.BuildState]
) -> None:
    flip(copy.output / "tensorrt-rtx.fp32.engine")
    looked = state(targets=["onnx"])
    assert [spec.file for spec in looked.missing] == ["tensorrt-rtx.fp32.engine"]


def test_other_images_other_threads_or_another_processor_are_a_change(
    copy: Built, state: Callable[..., cache.BuildState], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {"model.onnx", "openvino.fp32.xml", "tensorrt-rtx.fp32.engine"}
    timed_here = {"model.onnx", "openvino.fp32.xml"}
    threads = 1 + len(os.sched_getaffinity(0))
    assert {spec.file for spec in state(threads=threads).missing} == timed_here
    with monkeypatch.context() as patch:
        patch.setattr(cache, "machine", lambda: {"processor": "another", "features": ""})
        assert {spec.file for spec in state().missing} == timed_here
    assert {spec.file for spec in state(samples=4).missing} == everything
    # The same path and the same names, but one mask has another pixel.
    (folder,) = (copy.root / "build" / "data").glob("synthetic-skin-*-validation-5")
    mask = sorted((folder / "masks").iterdir())[0]
    before = mask.read_bytes()
    try:
        mask.write_bytes(before + b"\0")
        assert {spec.file for spec in state().missing} == everything
    finally:
        mask.write_bytes(before)
    assert state().finished is not None


def test_left_overs_of_a_killed_build_are_removed_and_files_of_the_user_are_not(copy: Built) -> None:
    (copy.output / ".build-killed" / "staged").mkdir(parents=True)
    (copy.output / ".build-killed" / "model.onnx").write_bytes(b"half an engine")
    (copy.output / "notes.txt").write_text("mine")
    assert copy.again("--max-batch", "4") == 0
    assert not list(copy.output.glob(".build-*"))
    assert (copy.output / "notes.txt").read_text() == "mine"


def triton_users_models(output: Path) -> None:
    """Put a repository of somebody else's where a build puts its own."""
    model = output / DIRECTORY / "densenet" / "1"
    model.mkdir(parents=True)
    (model / "model.plan").write_bytes(b"mine")


def users_notes(output: Path) -> None:
    """Put a file where a build puts its repository."""
    (output / DIRECTORY).mkdir()
    (output / DIRECTORY / "notes.txt").write_text("mine")


def users_folder(output: Path) -> None:
    """Put a folder of notes where a build puts the GPU server's repository."""
    (output / GPU_DIRECTORY).mkdir()
    (output / GPU_DIRECTORY / "notes.txt").write_text("mine")


OBSTACLES: dict[str, Damage] = {
    f"{DIRECTORY}/densenet": triton_users_models,
    f"{DIRECTORY}/notes.txt": users_notes,
    "model.onnx": lambda output: (output / "model.onnx").write_bytes(b"another tool's"),
    "openvino.fp32.xml": lambda output: (output / "openvino.fp32.xml").mkdir(),
    "report.html": lambda output: (output / "report.html").mkdir(),
    "report.json": lambda output: (output / "report.json").write_text('{"of": "another tool"}'),
    f"{GPU_DIRECTORY}/notes.txt": users_folder,
    DIRECTORY: lambda output: (output / DIRECTORY).write_text("a file"),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_what_is_of_no_build_is_not_replaced(name: str, tmp_path: Path) -> None:
    OBSTACLES[name](tmp_path)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(BuildError, match=rf"^{tmp_path / name} .*: move it, or give another output$"):
        build(output=tmp_path, targets=["onnx"], samples=1)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_models_of_others_beside_ours_are_not_deleted(copy: Built, capsys: pytest.CaptureFixture[str]) -> None:
    triton_users_models(copy.output)
    assert copy.again("--max-batch", "4") == 1
    assert capsys.readouterr().err.startswith(f"error: {copy.output / DIRECTORY / 'densenet'} is of no build, ")
    assert (copy.output / DIRECTORY / "densenet" / "1" / "model.plan").exists()


def test_what_a_tuning_or_a_desktop_has_left_is_no_obstacle(copy: Built) -> None:
    for name in (TUNING, ".DS_Store"):
        (copy.output / DIRECTORY / name).write_text("left")
    assert copy.again("--max-batch", "4") == 0
    assert (copy.output / DIRECTORY / TUNING).read_text() == "left"
    # Written anew it is no reason for another build.
    report = read_report(copy.output)
    assert report is not None
    assert not [name for name in report.files if name.endswith(TUNING)]


def test_two_builds_into_one_folder_are_refused(copy: Built, capsys: pytest.CaptureFixture[str]) -> None:
    descriptor = os.open(copy.output, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert copy.again("--max-batch", "4") == 1
    finally:
        os.close(descriptor)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: another build is writing to {copy.output}: ")


class Killed(BaseException):
    """Stand for SIGKILL: nothing catches it."""


def staged_pair(folder: Path) -> tuple[Path, Path]:
    """Make an output with an older state, and a staged newer one inside it, which drops an engine."""
    output = folder / "out"
    for base, text in ((output, "old"), (output / ".build-x", "new")):
        (base / DIRECTORY / "resformer").mkdir(parents=True)
        names = ["model.onnx", "report.html", f"{DIRECTORY}/resformer/config.pbtxt"]
        if text == "old":
            names += ["openvino.bf16.xml", "openvino.bf16.bin"]
        for name in names:
            (base / name).write_text(f"{text} {name}")
        hashes = {name: hashlib.sha256((base / name).read_bytes()).hexdigest() for name in names}
        write_report(
            base,
            Report(
                checkpoint=text,
                model_key="",
                contract={},
                samples="",
                reference_scores=None,
                reference_ms=1.0,
                engines=(),
                files=hashes,
            ),
        )
    return output, output / ".build-x"


def test_a_commit_that_is_killed_at_any_moment_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("rename", "replace", "unlink")
    originals = {"rmtree": shutil.rmtree} | {name: getattr(Path, name) for name in names}
    ended = False
    for moment in range(100):
        folder = tmp_path / str(moment)
        output, staged = staged_pair(folder)
        left = iter(range(moment, -1, -1))

        def counted(name: str, left: Iterator[int] = left) -> Callable[..., Any]:
            def call(*arguments: Any, **keywords: Any) -> Any:
                if next(left, 0) == 0:
                    raise Killed
                return originals[name](*arguments, **keywords)

            return call

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(Path, name, counted(name))
            patch.setattr(shutil, "rmtree", counted("rmtree"))
            try:
                commit.commit(staged, output)
                ended = True
            except Killed:
                pass
        begun = (output / commit.STAGED).exists() or ended
        commit.finish(output)
        assert is_whole(output)
        report = read_report(output)
        assert report is not None
        assert report.checkpoint == ("new" if begun else "old")
        if begun:
            files = {str(file.relative_to(output)) for file in output.rglob("*") if file.is_file()}
            assert files == {*report.files, "report.json"}
        if ended:
            return
    raise AssertionError("the commit took more than 100 steps")


@pytest.mark.parametrize("function", ["write_repository", "write_report"])
def test_a_disk_that_fills_leaves_the_last_good_build(
    function: str, copy: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Enough to be published anew, and to need no engine.
    (copy.output / "report.html").unlink()
    before = {file: file.read_bytes() for file in copy.output.rglob("*") if file.is_file()}

    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"deploy.building.publish.{function}", full)
    with working_directory(copy.root), pytest.raises(BuildError, match=r"^the disk of \S+ is full: make room"):
        build(copy.checkpoint, copy.output, targets=["onnx"], max_batch=4, samples=5)
    assert {file: file.read_bytes() for file in copy.output.rglob("*") if file.is_file()} == before


@pytest.mark.slow
def test_a_build_that_is_killed_20_times_never_loses_the_last_good_one(copy: Built, tmp_path: Path) -> None:
    """Kill builds of changing weights at random moments: what is there is then the older or the newer one, whole."""
    command = [sys.executable, "-m", "deploy.build_engine", "--output", str(copy.output), "--samples", "5"]
    command += ["--max-batch", "4", "--target", "onnx", "--target", "openvino"]
    checkpoint = load_checkpoint(copy.checkpoint)
    seconds, order = 0.0, random.Random(0)
    for number in range(21):
        state = {name: tensor * (1 - 0.01 * number) for name, tensor in checkpoint.state.items()}
        file = tmp_path / f"{number}.safetensors"
        save_checkpoint(file, Checkpoint(checkpoint.info, state))
        begun = time.monotonic()
        process = subprocess.Popen([*command, "--checkpoint", str(file)], cwd=copy.root, stdout=subprocess.DEVNULL)
        # The first is left alone, and tells how long a build takes.
        if number:
            time.sleep(order.uniform(0.2, 1) * seconds)
            process.send_signal(signal.SIGKILL)
        process.wait()
        seconds = seconds or time.monotonic() - begun
        assert (copy.output / commit.STAGED).exists() or is_whole(copy.output)
        read_repository(copy.output / DIRECTORY)
    assert copy.again("--max-batch", "4") == 0
    assert is_whole(copy.output)
    assert not [file.name for file in copy.output.iterdir() if file.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [1, 3, 5, 7, 9])
def test_a_small_disk_ends_a_build_in_one_line(megabytes: int, copy: Built) -> None:
    """Build on a real file system that is too small at different moments."""
    disk = copy.output.parent / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        command = [sys.executable, "-m", "deploy.build_engine", "--checkpoint", str(copy.checkpoint)]
        command += ["--output", str(disk / "out"), "--samples", "5", "--target", "onnx", "--target", "openvino"]
        done = subprocess.run(command, cwd=copy.root, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "disk" in line
        assert "full" in line
        # What was measured and traced is for the next build, on a larger disk.
        assert not [file.name for file in (disk / "out").iterdir() if not file.name.endswith("_cache")]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
