"""Test that the contact sheet shows each sample with its outline."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline import Dataset
from data_pipeline.overlay import colour_of
from data_pipeline.preview import contact_sheet, main


def test_a_tile_a_sample(dataset: Dataset) -> None:
    sheet = contact_sheet(dataset, size=64, columns=5, augment=True, seed=0)
    assert sheet.size == (320, 192)
    tiles = np.asarray(sheet).reshape(3, 64, 5, 64, 3).swapaxes(1, 2).reshape(15, 64, 64, 3)
    drawn = (tiles == colour_of(1)).all(-1).sum((1, 2))
    assert (drawn[:13] > 20).all() and (drawn[13:] == 0).all()


def test_the_command_writes_a_png_or_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sheet = tmp_path / "new" / "a.png"
    options = ["--samples", "3", "--size", "64", "--columns", "2", "--output", str(sheet)]
    assert main(["--data", "synthetic:moon", *options]) == 1
    assert capsys.readouterr().err.count("\n") == 1 and not sheet.exists()
    assert main(["--data", "synthetic:oct", *options]) == 0
    assert Image.open(sheet).size == (128, 128)
    assert [path.name for path in sheet.parent.iterdir()] == ["a.png"]
