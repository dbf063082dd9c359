"""Train under torchrun: several processes have the gradients of one."""

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from data_pipeline import open_source
from model.training import TrainingError, TrainingOptions
from model.training.processes import Processes
from model.training.trainer import Trainer
from tests.helpers.joint_gradients import gradients
from tests.helpers.networks import SMALLEST, info_of

ROOT = Path(__file__).parents[2]


def small_folder(folder: Path, count: int) -> str:
    """Write a folder source of random images and masks."""
    draw = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        Image.fromarray(draw.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / "images" / f"{index}.png")
        Image.fromarray(draw.integers(0, 2, (40, 40), np.uint8) * 255).save(folder / "masks" / f"{index}.png")
    rows = [f"{index},{','.join(f'{index:05b}')}" for index in range(count)]  # any two images differ in a label
    (folder / "labels.csv").write_text("\n".join(["image,a,b,c,d,e", *rows]) + "\n")
    return f"folder:{folder}"


def test_two_processes_have_the_gradients_of_one_with_the_joint_batch_and_run_the_command(tmp_path: Path) -> None:
    source = small_folder(tmp_path / "data", 14)  # 11 to train on: no multiple of the processes
    script = str(ROOT / "tests" / "helpers" / "joint_gradients.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    paths = {"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(tmp_path), source], cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    expected = gradients(Processes(0, 1, torch.device("cpu")))
    for rank in (0, 1):
        shared = load_file(tmp_path / f"gradients{rank}.safetensors")
        assert shared.keys() == expected.keys() and "log_variances" in shared
        for name, gradient in expected.items():
            torch.testing.assert_close(shared[name], gradient, rtol=1e-4, atol=1e-6)
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 3
    assert done.stdout.count("wrote ") == 1


def test_a_process_waits_longer_than_a_scan_or_a_validation_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    join = Mock()
    monkeypatch.setattr("torch.distributed.init_process_group", join)
    Processes.join()
    # NCCL's own limit is ten minutes.
    assert join.call_args.kwargs["timeout"] >= timedelta(hours=12)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_source(small_folder(tmp_path / "data", 14), "train", cache=tmp_path / "cache")
    three = Processes(0, 3, torch.device("cpu"))
    monkeypatch.setattr(Processes, "join", lambda: three)
    config = replace(SMALLEST, seg_channels=1, labels=len(data.labels))
    info = info_of(config, data.seg_classes, data.labels, "folder")
    options = TrainingOptions(epochs=1, batch_size=8, learning_rate=1e-3, seed=0)
    with pytest.raises(TrainingError, match="must be a multiple of the 3 processes, got 8"):
        Trainer(info, options, train=data, validation=data, output=tmp_path)
    two = replace(data, records=data.records[:2])
    with pytest.raises(TrainingError, match="3 processes need at least 3 training samples, got 2"):
        Trainer(info, replace(options, batch_size=6), train=two, validation=data, output=tmp_path)
