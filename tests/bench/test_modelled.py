"""Check what `bench.kernels` says of an output of `kernels.aot` that lacks something."""

import json
from pathlib import Path

import pytest

from bench.kernels.__main__ import file_of, main
from bench.kernels.gpus import GPUS
from bench.kernels.stages import calls


def modelled(folder: Path, output: Path) -> int:
    """Run the command on an output of `kernels.aot`."""
    return main(["--kernels", str(folder), "--output", str(output)])


def test_a_partial_compilation_is_named_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted({file_of(call, gpu) for call in calls(1) for gpu in GPUS})
    rows = [{"file": file, "loop_instructions": 100, "warps": 4} for file in files]
    table, output = tmp_path / "kernels.json", tmp_path / "model.json"
    table.write_text(json.dumps({"kernels": rows}))
    assert modelled(tmp_path, output) == 0
    assert output.exists()
    output.unlink()
    capsys.readouterr()
    # As after --compute-capability 80.
    kept = [row for row in rows if str(row["file"]).endswith("sm80")]
    table.write_text(json.dumps({"kernels": kept}))
    assert modelled(tmp_path, output) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{len(rows) - len(kept)} of {len(rows)} are missing" in line
    assert f"python -m kernels.aot --output {tmp_path}" in line
    assert not output.exists()


@pytest.mark.parametrize("text", [None, "", '{"kernels": [{"fi', "[]", "{}", '{"kernels": [1]}'])
def test_no_table_of_kernels_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None) -> None:
    if text is not None:
        (tmp_path / "kernels.json").write_text(text)
    assert modelled(tmp_path, tmp_path / "model.json") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "python -m kernels.aot" in line
