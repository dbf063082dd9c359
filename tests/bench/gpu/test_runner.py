"""Check that steps keep to their limits, that nothing measured is lost, and what the command says."""

import json
import os
import time
from pathlib import Path

import pytest

from bench.gpu import __main__ as command
from bench.gpu import machine, runner
from bench.gpu.machine import NEEDS, Machine, look
from bench.gpu.runner import RESULTS, allowance, lacking, read_rows, run_process, run_steps
from bench.gpu.session import Row, Session
from bench.gpu.steps import BARE, STEPS, Step

EVERYTHING = Machine(about={"GPU": "Some GPU"}, versions={"torch": "2.11.0"}, lacks={})
NOTHING = Machine(about={}, versions={}, lacks=dict.fromkeys(NEEDS, "not there"))
HERE = "tests.bench.gpu.test_runner"
# Going on after so long, a process would go on for ever.
PATIENCE_SECONDS = 60.0


def measure(session: Session) -> None:
    session.write(Row(table="attention", case="c", contender="ours", median_us=1.0, low_us=1.0, high_us=2.0, rounds=3))


def fail(session: Session) -> None:
    measure(session)
    raise ValueError("the reason")


def hang(session: Session) -> None:
    measure(session)
    session.announce(Row(table="attention", case="c", contender="torch.compile"))
    time.sleep(600)


def die(session: Session) -> None:
    measure(session)
    os.abort()


def step(name: str, seconds: int = 60, needs: tuple[str, ...] = ()) -> Step:
    """Make a step that runs a function of this file."""
    return Step(name=name, title=name, work=f"{HERE}:{name}", seconds=seconds, needs=needs)


def test_a_step_may_use_what_was_left_over_but_not_what_later_ones_need() -> None:
    one, later = step("measure", 60), [step("measure", 100), step("measure", 40)]
    assert allowance(one, later, 200) == 60
    assert allowance(one, later, 230) == 90
    # A step that hangs shall not use all of a large budget.
    assert allowance(one, later, 10_000) == 240
    assert allowance(one, later, 50) == 50


def test_every_step_keeps_its_rows_however_it_ends(tmp_path: Path) -> None:
    said: list[str] = []
    steps = [step("fail"), step("die"), step("measure"), step("measure", needs=("tensorrt",))]
    machine = Machine(about={}, versions={}, lacks={"tensorrt": "not installed"})
    results = run_steps(machine, 240, tmp_path, said.append, steps)
    assert [one["state"] for one in results["steps"]] == ["failed", "failed", "done", "lacking"]
    assert [len(one["rows"]) for one in results["steps"]] == [1, 1, 1, 0]
    failed, died, _, lacks = results["steps"]
    assert failed["reason"] == "ValueError: the reason"
    assert "Aborted" in died["reason"] or "-6" in died["reason"]
    assert lacks["reason"] == "it needs tensorrt"
    assert json.loads((tmp_path / RESULTS).read_text()) == results
    assert [line.split(":")[0] for line in said] == ["fail", "die", "measure", "measure"]
    assert "1 measured" in said[0]


# With room for a worker to start on a busy machine.
@pytest.mark.slow
def test_a_step_that_hangs_is_ended_with_its_rows_kept_and_what_follows_is_left_out(tmp_path: Path) -> None:
    hung, left_out = run_steps(EVERYTHING, 42, tmp_path, print, [step("hang", 40), step("measure", 60)])["steps"]
    assert (hung["state"], [row["state"] for row in hung["rows"]]) == ("timed out", ["measured", "cut off"])
    assert hung["seconds"] < 42
    assert left_out["state"] == "left out"


def test_a_folder_of_the_callers_is_found_by_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (done,) = run_steps(EVERYTHING, 60, Path("there"), print, [step("measure")])["steps"]
    assert (done["state"], len(done["rows"])) == ("done", 1)


def test_what_does_not_fit_the_budget_is_left_out(tmp_path: Path) -> None:
    (left_out,) = run_steps(EVERYTHING, 10, tmp_path, print, [step("measure", 60)])["steps"]
    assert (left_out["state"], left_out["rows"]) == ("left out", [])
    assert left_out["reason"] == "10 s of the budget are left, it needs 60 s"


def test_a_row_that_was_not_finished_is_no_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"state": "measured"}\n{"state": "wrong"}\n{"state": "c')
    assert read_rows(file) == [{"state": "measured"}, {"state": "wrong"}]
    assert read_rows(tmp_path / "none") == []


def test_only_what_the_end_found_at_work_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    states = ["cut off", "measured", "cut off", "failed", "cut off"]
    for count, kept in ((5, ["measured", "failed", "cut off"]), (4, ["measured", "failed"])):
        file.write_text("".join(json.dumps({"state": state}) + "\n" for state in states[:count]))
        assert [row["state"] for row in read_rows(file)] == kept


def runs(pid: int) -> bool:
    """Tell whether a process is there and no zombie that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_step_has_started_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE", 0.5)
    # The child ignores the polite signal, and outlives its parent.
    script = "trap '' TERM; (trap '' TERM; echo $BASHPID; exec sleep 600) & wait"
    state, reason = run_process(["bash", "-c", script], 1.0, tmp_path / "log", tmp_path / "cache")
    assert (state, reason) == ("timed out", "the limit of 1 s was reached")
    child = int((tmp_path / "log").read_text())
    # A busy machine takes a while to end what was killed.
    deadline = time.monotonic() + PATIENCE_SECONDS
    while runs(child):
        assert time.monotonic() < deadline, f"{child} goes on"
        time.sleep(0.05)


def test_caches_of_compilers_are_the_runs_own(tmp_path: Path) -> None:
    run_process(
        ["sh", "-c", "echo $TRITON_CACHE_DIR $TORCHINDUCTOR_CACHE_DIR"], 10, tmp_path / "log", tmp_path / "cache"
    )
    assert (tmp_path / "log").read_text().split() == [
        str(tmp_path / f"cache/{name}") for name in ("triton", "torchinductor")
    ]


def test_a_cache_that_may_hold_half_a_file_is_removed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for script, kept in (("true", True), ("sleep 600", False)):
        cache.mkdir(exist_ok=True)
        run_process(["sh", "-c", script], 1.0, tmp_path / "log", cache)
        assert cache.exists() == kept


def test_the_results_so_far_are_whole_after_every_step(tmp_path: Path) -> None:
    seen: list[int] = []

    def say(line: str) -> None:
        # The line of a step comes before its results are written.
        seen.append(len(json.loads((tmp_path / RESULTS).read_text())["steps"]) if (tmp_path / RESULTS).exists() else 0)

    run_steps(NOTHING, 60, tmp_path, say, [step("measure", needs=BARE)] * 3)
    assert seen == [0, 1, 2]


def test_a_dry_run_lists_every_step_with_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "look", lambda: NOTHING)
    assert command.main(["--dry-run"]) == 0
    output = capsys.readouterr().out
    for one in STEPS:
        assert f" {one.name}: {one.title}\n" in output
        assert f"cannot run here: this machine lacks {lacking(one, NOTHING)}" in output
    assert all(f"lacks {need} (not there)" in output for need in NEEDS.values())


def test_a_dry_run_says_what_the_budget_has_room_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "look", lambda: EVERYTHING)
    fates = {}
    for minutes in ("3", "9", "60"):
        assert command.main(["--dry-run", "--budget", minutes]) == 0
        output = capsys.readouterr().out
        fates[minutes] = (output.count("would run"), output.count("left out"))
    assert fates["3"][0] < fates["9"][0] < fates["60"][0] == len(STEPS)
    assert all(sum(fate) == len(STEPS) for fate in fates.values())


def test_without_a_gpu_the_command_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "look", lambda: NOTHING)
    assert command.main(["--output", str(tmp_path / "results")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: no step can run without torch, triton, a C compiler (gcc, clang or CC), an NVIDIA GPU"
    )
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf", "soon"])
def test_a_budget_is_minutes(budget: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--budget", budget])
    assert ended.value.code == 2
    assert "--budget" in capsys.readouterr().err.splitlines()[-1]


def test_the_exit_code_tells_whether_anything_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "look", lambda: EVERYTHING)
    for name, code in (("measure", 0), ("fail", 1)):
        monkeypatch.setattr(command, "STEPS", (step(name),))
        assert command.main(["--output", str(tmp_path)]) == code
    assert "fault: fail: failed: ValueError: the reason" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "look", lambda: EVERYTHING)
    (tmp_path / "file").write_text("")
    assert command.main(["--output", str(tmp_path / "file")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")


def test_a_machine_that_cannot_be_asked_lacks_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "false")
    found = look()
    assert found.lacks.keys() == NEEDS.keys()
    assert found.lacks["gpu"] == "the machine could not be asked: it ended with 1"


def test_what_breaks_the_question_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho Traceback >&2\necho 'ImportError: libcuda.so.1 is too old' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    assert look().lacks["torch"] == "the machine could not be asked: ImportError: libcuda.so.1 is too old"


def test_a_driver_that_does_not_answer_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("nvidia-smi", "docker"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 60\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(machine, "ASK_SECONDS", 0.2)
    assert machine._driver() == "unknown"
    assert not machine._has_server()


@pytest.mark.parametrize(("path", "named", "found"), [("", None, False), ("", "sh", False), ("/bin", "sh", True)])
def test_a_compiler_is_the_one_that_is_named(
    path: str, named: str | None, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", path)
    if named:
        monkeypatch.setenv("CC", named)
    else:
        monkeypatch.delenv("CC", raising=False)
    assert machine._has_compiler() == found


def test_this_machine_is_described_as_it_is() -> None:
    torch = pytest.importorskip("torch")
    found = look()
    # The package's own name of a CUDA build, +cu130, is not in what its wheel says of itself.
    assert found.versions["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert ("gpu" in found.lacks) == (not torch.cuda.is_available())
    assert "torch" not in found.lacks
