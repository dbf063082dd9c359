"""One real build, shared by the tests that look at what it left."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deploy import build_engine
from deploy.export import export_onnx
from model.checkpoint import Checkpoint, CheckpointInfo, save_checkpoint
from tests.helpers.networks import SMALLEST, lived_in
from tests.helpers.smallest import CONTRACT


@dataclass(frozen=True)
class Built:
    """checkpoint: its file.  output: what the build left.  root: the directory to run in."""

    checkpoint: Path
    output: Path
    root: Path

    def again(self, *arguments: str) -> int:
        """Run the command once more on the same checkpoint and output; returns its exit code."""
        with working_directory(self.root):
            return build_engine.main(
                ["--checkpoint", str(self.checkpoint), "--output", str(self.output), "--samples", "5", *arguments]
            )


@contextmanager
def working_directory(path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest network as a float32 ONNX file with a dynamic batch."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(lived_in(SMALLEST), CONTRACT, path)
    return path


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A skin checkpoint of the smallest network, with untrained weights."""
    config = replace(SMALLEST, seg_channels=1)
    labels = ("melanoma", "seborrheic_keratosis", "nevus")
    info = CheckpointInfo(config, ("background", "lesion"), labels, "synthetic:skin")
    path = tmp_path_factory.mktemp("checkpoint") / "smallest.safetensors"
    save_checkpoint(path, Checkpoint(info, lived_in(config).state_dict()))
    return path


@pytest.fixture(scope="session")
def built(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    root = tmp_path_factory.mktemp("build")
    result = Built(small_checkpoint, root / "out", root)
    assert result.again("--max-batch", "4") == 0
    return result
