"""Check what `bench.kernels` says of an output of `kernels.aot` that lacks something."""

import json
from pathlib import Path

import pytest
import torch

from bench.kernels.__main__ import file_of, main
from bench.kernels.gpus import GPUS, Work
from bench.kernels.stages import calls
from kernels.aot.configurations import shipped
from kernels.cost_model import DilatedProblem

(H100,) = (gpu for gpu in GPUS if gpu.capability == 90)


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


def test_the_dilated_kernel_reads_little_from_the_l2_cache() -> None:
    # Stage 4 of paper-512, where tiles of 4x8 pixels by 64 channels took 553 us.
    problem = DilatedProblem(
        batch=8, height=32, width=32, c_in=512, c_out=512, dilations=(6, 12, 18), dtype=torch.float16
    )
    work = Work(
        programs=problem.programs,
        dram_bytes=problem.compulsory_bytes,
        l2_bytes=problem.l2_bytes,
        flops=problem.executed_flops,
        instructions=0,
    )
    seconds, limit = H100.seconds(work)
    assert limit == "L2" and seconds <= 0.6 * 553e-6


def test_multiprocessors_without_a_program_are_idle() -> None:
    def seconds(programs: int) -> float:
        return H100.seconds(Work(programs=programs, dram_bytes=0, l2_bytes=0, flops=10**12, instructions=0))[0]

    # The same work: divided evenly, by half of the multiprocessors, and by one of them twice as much as by the rest.
    assert seconds(66) == pytest.approx(2 * seconds(132))
    assert seconds(133) == pytest.approx(2 * 132 / 133 * seconds(132))


@pytest.mark.parametrize("batch", [1, 3, 8, 32])
def test_every_batch_is_modelled_from_what_is_compiled(batch: int) -> None:
    assert {call.configuration.name for call in calls(batch)} <= {one.name for one in shipped()}
