"""Test what the compiler makes of the shipped kernels.

It runs in a process of its own, because this one may hold Triton's interpreter.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import triton

from kernels.aot.configurations import PRESETS, shipped
from kernels.aot.machine_code import occupancy
from model import PRESETS as MODEL_PRESETS

ROOT = Path(__file__).parents[2]
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
Row = dict[str, Any]
# Going on after so long, a process would go on for ever.
PATIENCE_SECONDS = 60.0


def compile_kernels(output: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    # tests/conftest.py sets TRITON_INTERPRET for this process, where nothing would compile.
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "kernels.aot", "--output", str(output), *arguments]
    return subprocess.run(command, env={**clean, **environment}, cwd=ROOT, capture_output=True, text=True)


def rows_of(output: Path, *arguments: str) -> list[Row]:
    """Compile kernels and return the rows of their table, each with the path of its files."""
    done = compile_kernels(output, *arguments)
    assert done.returncode == 0, done.stderr
    return [
        dict(row, path=output / row["file"]) for row in json.loads((output / "kernels.json").read_text())["kernels"]
    ]


@pytest.fixture(scope="module")
def ampere(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Compile all shipped kernels for sm_80, once for this module."""
    return rows_of(tmp_path_factory.mktemp("ampere"), "--compute-capability", "80")


@pytest.fixture(scope="module")
def forward(ampere: list[Row]) -> list[Row]:
    """Select the two kernels of inference."""
    return [row for row in ampere if row["kernel"] in ("attention_forward", "dilated_fusion")]


def test_the_presets_are_those_of_the_model() -> None:
    """Compare the copied presets with the originals, which `kernels` may not import."""
    assert {preset.name for preset in PRESETS} == set(MODEL_PRESETS)
    for preset in PRESETS:
        config = MODEL_PRESETS[preset.name]
        assert preset.image_size == config.image_size
        assert preset.image_size // 16 == config.window_size
        assert preset.channels == config.channels[0]
        assert preset.head_dim == config.head_dim
        assert preset.dilations == config.dilations


def test_every_shipped_configuration_has_its_own_row(ampere: list[Row]) -> None:
    assert sorted(row["file"] for row in ampere) == sorted(f"{one.name}-sm80" for one in shipped())
    assert all(row["path"].with_suffix(suffix).stat().st_size > 1000 for row in ampere for suffix in (".cubin", ".ptx"))


# The assembler settles for 96 registers here, with which a block more fits on a multiprocessor. It is stage 3 of
# "tiny". Half the channels a step would not spill, but issue a third more instructions on every architecture.
SPILLS = {"dilated_fusion-c64-64-d2-3-5-8x16x64x64-split2-fp16-sm100": 48}
if triton.__version__.startswith("3.7."):
    # Its assembler comes with PyTorch's CUDA builds.
    SPILLS = {
        "attention_backward_key_value-w14-d32-fp32-sm80": 12,
        "attention_backward_key_value-w32-d32-fp32-sm86": 24,
        "attention_backward_key_value-w32-d32-fp32-sm89": 24,
    }


def check_resources(rows: list[Row]) -> None:
    """Refuse spilled registers, atomic additions and half-precision products without tensor cores."""
    for row in rows:
        assert row["spill_bytes"] == SPILLS.get(row["file"], 0), row["file"]
        assert not {kind.split()[0] for kind in row["memory_instructions"]} & {"RED", "ATOMG"}, row["file"]
        if row["dtype"] != "fp32" and row["kernel"] != "dilated_sum":
            assert row["loop_tensor_instructions"] > 0, row["file"]


def test_nothing_spills_and_every_loop_uses_tensor_cores(ampere: list[Row]) -> None:
    check_resources(ampere)


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["86", "89", "90", "100", "120"])
def test_nothing_spills_on_any_architecture(capability: str, tmp_path: Path) -> None:
    check_resources(rows_of(tmp_path, "--compute-capability", capability))


def test_both_products_use_tensor_cores(ampere: list[Row]) -> None:
    # A product of 16 queries and 16 keys takes four HMMA at head dim 32 and two at 16. The main loop of the forward
    # kernel has two products, those of the backward kernels have three and four.
    products = {"attention_forward": 2, "attention_backward_query": 3, "attention_backward_key_value": 4}
    for row in ampere:
        if row["kernel"] in products and row["dtype"] != "fp32":
            window, head_dim = (int(part[1:]) for part in row["configuration"].split("-")[:2])
            owned = 128 if row["kernel"] == "attention_forward" and window > 8 else 64
            product = head_dim // 8 * (owned // 16 // row["warps"] * 32 // 16)
            loop = product * products[row["kernel"]]
            # The assembler writes out the 7 steps of a loop where it likes. Then the one left is the first pass over
            # the keys, of one product.
            written_out = window == 14 and row["tensor_instructions"] == product + 7 * loop
            assert row["loop_tensor_instructions"] == loop or written_out, row["file"]


def test_inputs_load_sixteen_bytes_at_a_time(forward: list[Row]) -> None:
    # The bias vector of the convolution, which does not go through shared memory, is the one thing that may load less.
    for row in forward:
        widths = {kind for kind in row["memory_instructions"] if kind.startswith(("LDG ", "LDGSTS "))}
        if row["kernel"] == "attention_forward":
            # At window 14 and head dim 16 a step has 512 values of keys, and each of 128 threads loads four of them.
            narrow = row["configuration"].startswith("w14-d16")
            assert widths == {"LDG 16", f"LDGSTS {8 if narrow else 16}"}, row["file"]
        else:
            assert {kind for kind in widths if kind.startswith("LDGSTS")} == {"LDGSTS 16"}, row["file"]


def test_instructions_a_tensor_instruction_of_the_main_loop(forward: list[Row]) -> None:
    ratios = {row["file"]: row["loop_instructions_per_tensor_instruction"] for row in forward}
    assert ratios["attention_forward-w14-d32-fp16-sm80"] <= 16
    # More with a shift, because inner and wrapped windows run the same loop.
    assert ratios["attention_forward-w14-d32-shifted-fp16-sm80"] <= 20


def test_shared_memory_stays_below_what_every_gpu_grants(ampere: list[Row]) -> None:
    # 99 KB is what GPUs of compute capability 8.6, 8.9 and 12.0 grant to a program that asks for it.
    assert all(row["shared_bytes"] <= 99 * 1024 for row in ampere)


def test_shared_memory_of_plugins_needs_no_asking(forward: list[Row]) -> None:
    plugins = [row for row in forward if "in plugins" in row["serves"] or row["kernel"] == "attention_forward"]
    assert {row["kernel"] for row in plugins} == {"attention_forward", "dilated_fusion"}
    assert all(row["shared_bytes"] < 48 * 1024 for row in plugins)


def parameters(ptx: str, entry: str) -> list[str]:
    """List the types of a kernel's parameters."""
    found = re.search(rf"\.visible \.entry {entry}\((.*?)\n\)", ptx, re.DOTALL)
    assert found is not None
    return re.findall(r"\.param \.(u64|u32)", found[1])


def test_ptx_takes_inputs_then_sizes_then_outputs(forward: list[Row]) -> None:
    for row in forward:
        names = row["arguments"]
        # Triton's launcher, the cubins and TensorRT all pass arguments in this order.
        assert names[-1] == "out_ptr"
        assert parameters(row["path"].with_suffix(".ptx").read_text(), row["entry"]) == [
            "u64" if name.endswith("_ptr") else "u32" for name in names
        ]


def test_ptx_assembles(forward: list[Row], tmp_path: Path) -> None:
    for row in forward:
        command = [PTXAS, "-arch=sm_80", row["path"].with_suffix(".ptx"), "-o", tmp_path / "kernel.cubin"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_payload_fits_what_tensorrt_passes_and_grants() -> None:
    # On sm_100 the shipped stages of this kernel would take 16 bytes more than 48 KB.
    program = (
        "import torch; from kernels.aot import compile_payload; "
        "from kernels.aot.configurations import dilated_fusion; "
        "one, = dilated_fusion((1, 112, 112, 64), 64, (6, 12, 18), torch.float16, one_launch=True); "
        "made = compile_payload(one, 100, ptx_version=86); print(made.shared_bytes); print(made.ptx)"
    )
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", program], env=clean, cwd=ROOT, capture_output=True, text=True)
    shared, _, ptx = done.stdout.partition("\n")
    assert int(shared) < 48 * 1024, done.stderr
    assert ".version 8.6" in ptx
    assert parameters(ptx, "dilated_forward") == ["u64", "u64", "u64", "u32", "u32", "u64"]


def test_unknown_architecture_is_one_line(tmp_path: Path) -> None:
    done = compile_kernels(tmp_path / "out", "--compute-capability", "70")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: compute capability must be one of (80, 86, 89, 90, 100, 120)"
    )
    assert not (tmp_path / "out" / "kernels.json").exists()


def test_the_processes_that_compile_end_with_a_command_that_is_killed(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = subprocess.Popen([sys.executable, "-m", "kernels.aot", "--output", str(tmp_path)], env=clean, cwd=ROOT)
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
    # The first file comes from a process that compiles.
    while command.poll() is None and not list(tmp_path.glob("*.cubin")):
        time.sleep(0.05)
    started = [int(pid) for pid in children.read_text(encoding="utf-8").split()]
    assert len(started) > 1
    command.kill()
    command.wait()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left := [pid for pid in started if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"{left} go on"
        time.sleep(0.05)


def test_interpreter_does_not_compile(tmp_path: Path) -> None:
    done = compile_kernels(tmp_path, "--kernel", "attention_forward", TRITON_INTERPRET="1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: kernels do not compile under TRITON_INTERPRET=1: unset it"


def test_occupancy_follows_the_scarcest_resource() -> None:
    assert occupancy(80, registers=32, shared_bytes=0, warps=4) == 1.0
    assert occupancy(80, registers=128, shared_bytes=0, warps=4) == 0.25
    assert occupancy(89, registers=32, shared_bytes=48 * 1024, warps=4) == pytest.approx(8 / 48)
