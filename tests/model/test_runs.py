"""Run the commands of training side by side and again later: nothing of another run or of other data is mixed in."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_pipeline.files import locked
from model import ablate, evaluate, train
from model.training import TrainingError
from model.training.processes import Processes
from model.training.run_files import all_alone_in, alone_in
from tests.model.test_processes import small_folder

SMALL = ["--preset", "tiny", "--epochs", "1", "--batch-size", "4", "--output", "out"]


def add_image(folder: Path, name: str) -> None:
    """Put one more image with its mask into a folder of data."""
    first = sorted((folder / "images").iterdir())[0]
    Image.open(first).save(folder / "images" / name)
    Image.open(folder / "masks" / f"{first.stem}.png").save(folder / "masks" / name)
    table = folder / "labels.csv"
    row = next(line for line in table.read_text().splitlines()[1:] if line.split(",")[0].startswith(first.stem))
    table.write_text(table.read_text() + ",".join([name, *row.split(",")[1:]]) + "\n")


@pytest.mark.parametrize("command", [train, ablate])
def test_two_runs_do_not_share_an_output(
    command: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    with locked(Path("out")):
        assert command.main(["--data", small_folder(tmp_path / "data", 20), *SMALL]) == 1  # type: ignore[attr-defined]
    error = capsys.readouterr().err
    assert error.startswith("error: out is written to by a run that has not ended; wait for it, or give another")
    assert len(error.splitlines()) == 1 and not list(Path("out").iterdir())


def test_what_a_killed_run_was_writing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out/inner").mkdir(parents=True)
    # Of a process that is gone for certain.
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    Path(f"out/inner/.last.safetensors.{gone.pid}.tmp").touch()
    assert train.main(["--data", f"folder:{tmp_path}", *SMALL, "--output", "out/inner"]) == 1
    assert not list(Path("out/inner").iterdir())


def test_a_run_of_which_nothing_came_leaves_the_folders_that_there_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    for output in ("mine", "mine/new/newer"):
        assert train.main(["--data", f"folder:{tmp_path}", *SMALL, "--output", output]) == 1
        assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_a_file_system_without_locks_takes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with alone_in(tmp_path):
        (tmp_path / "file").touch()
    assert (tmp_path / "file").exists()


def test_processes_of_one_run_all_say_that_its_output_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "any", lambda self, flag: flag or self.rank > 0)
    for rank, message in ((0, "has not ended"), (1, "as the first process says")):
        processes = Processes(rank, 2, torch.device("cpu"))
        with locked(tmp_path), pytest.raises(TrainingError, match=message), all_alone_in(tmp_path, processes):
            pass


def test_a_folder_with_one_more_image_is_not_taken_for_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = small_folder(tmp_path / "data", 20)
    assert train.main(["--data", source, *SMALL]) == 0
    score = ["--checkpoint", "out/best.safetensors", "--data", source, "--output", "scores"]
    assert evaluate.main(score) == 0
    assert "was trained on images of these" not in capsys.readouterr().out
    add_image(tmp_path / "data", "another.png")
    assert evaluate.main(score) == 0
    assert "warning: the checkpoint was trained on images of these, or chosen by them" in capsys.readouterr().out


def test_an_ablation_does_not_go_on_with_other_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["--data", small_folder(tmp_path / "data", 20), *SMALL, "--seeds", "1", "--arm", "base"]
    assert ablate.main(command) == 0
    add_image(tmp_path / "data", "another.png")
    assert ablate.main(command) == 1
    assert "train images " in (error := capsys.readouterr().err) and "give the same options and data" in error
