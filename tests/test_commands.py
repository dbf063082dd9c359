"""Hold what all commands have in common: help, seeds, output in pipes, Ctrl-C, clashing names, missing packages."""

import argparse
import importlib
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from data_pipeline.command_line import BROKEN_PIPE, Output
from tests.helpers.imports import ROOT

COMMANDS = (
    *("data_pipeline.prepare", "data_pipeline.preview", "model.train", "model.evaluate", "model.ablate", "model.card"),
    *("deploy.build_engine", "deploy.serve", "deploy.demo", "deploy.client", "deploy.manifest", "kernels.aot"),
)
SCRIPTS = ("resformer-build", "resformer-client", "resformer-evaluate", "resformer-serve", "resformer-train")
DATA = ("--data", "synthetic:skin", "--samples", "2")
WEIGHTS = str(ROOT / "model" / "weights" / "skin-tiny.safetensors")


def run(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments in a folder, where it finds the packages as if they were installed."""
    paths = {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], environment.pop("PYTHONPATH", "")])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **paths, **environment}, capture_output=True, text=True)


class ParserFoundError(Exception):
    """Carry a parser out of the command that made it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def parser_of(command: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """Return the parser that a command reads its command line with."""

    def capture(parser: argparse.ArgumentParser, *_: object) -> None:
        raise ParserFoundError(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", capture)
    try:
        module = importlib.import_module(f"{command}.__main__")
    except ModuleNotFoundError:
        module = importlib.import_module(command)
    with pytest.raises(ParserFoundError) as caught:
        module.main([])
    return caught.value.parser


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples_and_says_what_each_option_is_and_defaults_to(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = parser_of(command, monkeypatch)
    assert f"  python -m {command}" in (parser.epilog or "")
    formatter = parser._get_formatter()
    for action in parser._actions:
        text = formatter._expand_help(action) if action.help else ""
        assert len(text.split()) > 1, f"{action.option_strings} has no help"
        optional = action.option_strings and action.nargs != 0 and not action.required
        if optional and action.default not in (None, argparse.SUPPRESS):
            assert "default" in text, f"{action.option_strings} does not say its default, {action.default}"


@pytest.mark.parametrize("command", ["data_pipeline.prepare", "data_pipeline.preview", "model.train", "model.evaluate"])
@pytest.mark.parametrize("seed", ["-1", "4294967296", "1.5", "one"])
def test_a_seed_that_is_none_is_refused_in_one_line(
    command: str, seed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    required = {"model.train": ["--preset", "tiny"], "model.evaluate": ["--checkpoint", "random:tiny"]}
    more = ["--size", "32"] if command == "data_pipeline.prepare" else required.get(command, [])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(command).main([*DATA, *more, "--output", "out", "--seed", seed])
    assert end.value.code == 2
    assert f"must be a whole number from 0 to 4294967295, got {seed}" in capsys.readouterr().err.splitlines()[-1]


def test_output_in_a_pipe_is_whole_and_plain(tmp_path: Path) -> None:
    """Look for a path that is longer than a line, for brackets, and for the marks of a terminal."""
    name = "a-folder-whose-name-is-longer-than-a-line-of-the-narrow-terminal-[red]-of-this-test" * 2
    evaluate = ("-m", "model.evaluate", "--checkpoint", WEIGHTS, *DATA, "--output", name)
    done = run(*evaluate, cwd=tmp_path, PYTHONPATH=str(ROOT), COLUMNS="60")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(f"wrote {name}/metrics.json" in line for line in lines)
    assert not {"\x1b", "\r", "━", "│", "┃"} & set(done.stdout)
    # What is scored, then a row a score, and nothing of the bars that show progress.
    assert [line.split()[0] for line in lines[:3]] == ["scoring", WEIGHTS, "score"]
    assert lines[-1].startswith("wrote ")


def test_output_fits_a_narrow_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "model.evaluate", "--checkpoint", WEIGHTS, *DATA, "--output", "scores"]
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm", "PYTHONPATH": f"{os.environ['PYTHONPATH']}:{ROOT}"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        # The terminal ends with an error once nobody holds its other side.
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:
            pass
    os.close(ours)
    assert process.returncode == 0
    table = [line for line in shown.decode().splitlines() if "│" in line]
    assert table and all(len(line) <= 60 for line in table)
    # Folded, not cut.
    assert "…" not in shown.decode()


def test_a_table_too_wide_for_the_terminal_is_a_line_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    table = Table("engine", "ms", *(f"a score number {index}" for index in range(5)), title="[b]weights[/b]")
    table.add_row(Text("[red]"), "370.1", *["0.9327"] * 4, "")
    Output().print(table)
    printed = " ".join(capsys.readouterr().out.split())
    scores = ", ".join(f"a score number {index} 0.9327" for index in range(4))
    assert printed == f"\x1b[1mweights\x1b[0m [red]: ms 370.1, {scores}"


@pytest.mark.parametrize("options", [["-um", "model.train"], ["-mkernels.aot"], ["-X", "utf8", "-Im", "deploy.client"]])
def test_commands_start_with_every_form_of_pythons_option(options: list[str]) -> None:
    ended = subprocess.run([sys.executable, *options, "--help"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: ")


def test_a_reader_who_leaves_ends_the_command_without_a_traceback(tmp_path: Path) -> None:
    line = f"{sys.executable} -m data_pipeline.preview --data synthetic:skin --samples 1 --size 32 --output sheet.png"
    script = f"set -o pipefail; {line} | true"
    paths = {"PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT)])}
    command = ["bash", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **paths}, capture_output=True, text=True)
    assert done.stderr == ""


def test_a_reader_who_has_left_is_no_failure_of_the_command() -> None:
    code = """
from data_pipeline.command_line import Output, run_command
raise SystemExit(run_command(lambda: Output().print("a line")))
"""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (BROKEN_PIPE, b"")


def until_imported(process: "subprocess.Popen[str]", library: str) -> None:
    """Wait until a process has opened a file of a library."""
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and library not in maps.read_text(encoding="utf-8"):
        pass


@pytest.mark.parametrize(
    "command", ["model.train", "deploy.build_engine", "data_pipeline.prepare", "kernels.aot", "bench.report"]
)
def test_ctrl_c_while_libraries_are_imported_is_one_line(command: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}:{ROOT}"}
    arguments = [sys.executable, "-m", command, "--help"]
    with subprocess.Popen(arguments, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        # NumPy is among the first, so that seconds of imports follow.
        until_imported(process, "numpy")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "interrupted\n")


def make_names(folder: Path, names: Sequence[str]) -> None:
    """Make packages and modules of a user's with names of this project's packages."""
    for name in names:
        file = folder / name if name.endswith(".py") else folder / name / "__init__.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine = True\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_installed_commands_ignore_the_current_folder(script: str, tmp_path: Path) -> None:
    make_names(tmp_path, ["model", "deploy", "data_pipeline", "kernels.py"])
    installed = Path(sys.executable).parent / script
    done = subprocess.run([installed, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {script} ")


@pytest.mark.parametrize(
    ("names", "command", "named"),
    [
        (["model"], "deploy.build_engine", "'model'"),
        (["model.py"], "deploy.serve", "'model'"),
        (["kernels"], "model.train", "'kernels'"),
        (["data_pipeline"], "deploy.client", "'data_pipeline'"),
        (["data_pipeline.py"], "model.evaluate", "'data_pipeline'"),
    ],
)
def test_a_clash_of_names_is_one_line(names: list[str], command: str, named: str, tmp_path: Path) -> None:
    make_names(tmp_path, names)
    done = run("-m", command, "--help", cwd=tmp_path, PYTHONPATH=str(ROOT))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith("error: ") and named in line and str(tmp_path) in line


def test_the_client_needs_neither_model_nor_kernels(tmp_path: Path) -> None:
    make_names(tmp_path, ["model.py", "kernels"])
    done = run("-m", "deploy.client", "--help", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_with_names_of_its_own_is_told(tmp_path: Path) -> None:
    make_names(tmp_path, ["model.py"])
    (tmp_path / "program.py").write_text("from deploy.client import Client\nfrom deploy import build\n")
    done = run("program.py", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stderr.splitlines()[-1].startswith("ImportError: Python finds another package 'model'")


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        ("deploy.build_engine", "torch", "toolkit"),
        ("model.train", "torch", "toolkit"),
        ("data_pipeline.prepare", "nvidia", "toolkit"),
        ("deploy.client", "tritonclient", "client"),
    ],
)
def test_a_missing_package_is_one_line(command: str, missing: str, extra: str, tmp_path: Path) -> None:
    (tmp_path / f"{missing}.py").write_text(f'raise ModuleNotFoundError("No module", name={missing!r})')
    done = run("-m", command, "--help", cwd=tmp_path, PYTHONPATH=str(ROOT))
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"pip install 'resformer-deploy[{extra}]'") and missing in line
    assert done.returncode == 1


def test_compute_capabilities_are_written_either_way() -> None:
    kernels = importlib.import_module("kernels.aot.__main__")
    assert [kernels.capability(text) for text in ("8.6", "86", "12.0", "120")] == [86, 86, 120, 120]
    plan = importlib.import_module("deploy.building.plan")
    pairs = {"8.6": "8.6", "86": "8.6", "12.0": "12.0", "120": "12.0", "8.x": "8.x"}
    assert [plan.with_point(text) for text in pairs] == list(pairs.values())
