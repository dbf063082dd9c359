"""Test what `python -m bench.profile_layers` shows in a pipe, and what it says of files that are no engine."""

from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from bench.profile_layers import main


def test_a_table_in_a_pipe_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, weight = ops.parameter([1, 8, 16, 16], np.float32), np.ones((8, 8, 3, 3), np.float32)
    ones = [1, 1]
    network = ops.convolution(source, weight, ones, ones, ones, ones)
    # Longer than a line of a terminal, where the title would be wrapped.
    file = tmp_path / f"{'a-long-name-' * 8}.xml"
    openvino.save_model(openvino.Model([network], [source]), file)
    assert main([str(file), "--threads", "1"]) == 0
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title.strip().startswith(f"{file.name}, ") and header.split()[:2] == ["layer", "implementation"]
    assert any(row.startswith("Convolution ") for row in rows)


@pytest.mark.parametrize("name", ["missing.xml", "table.csv", "broken.xml", "broken.onnx"])
def test_what_is_no_engine_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / name
    if not name.startswith("missing"):
        file.write_text("<net")
    assert main([str(file)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {file} ")
