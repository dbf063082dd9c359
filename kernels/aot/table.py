"""Compile the shipped configurations in parallel and make the table that describes them.

Apart from `__main__`, whose functions a spawned process cannot import.
"""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton

from kernels.aot import sass
from kernels.aot.compile import Compiled, compile_kernel, refuse_interpreter, without_scratch
from kernels.aot.configurations import TRITON_TYPES, Configuration, shipped
from kernels.aot.occupancy import MULTIPROCESSORS, occupancy
from kernels.errors import require

CAPABILITIES = tuple(MULTIPROCESSORS)


def describe(configuration: Configuration, capability: int, compiled: Compiled) -> dict[str, Any]:
    """Make one row of the table."""
    code, needs = sass.instructions(compiled.cubin), sass.resources(compiled.cubin)
    loop = sass.main_loop(code)
    products = sum(one.is_tensor for one in loop)
    return {
        "kernel": configuration.kernel,
        "configuration": configuration.variant,
        "dtype": TRITON_TYPES[configuration.dtype],
        "architecture": f"sm_{capability}",
        "serves": configuration.serves,
        "entry": compiled.entry,
        "arguments": list(compiled.arguments),
        "registers": needs.registers,
        "spill_bytes": sass.spill_bytes(code),
        "stack_bytes": needs.stack_bytes,
        # From Triton and not from the cubin, which states static shared memory only.
        "shared_bytes": compiled.shared_bytes,
        "warps": compiled.threads // 32,
        # The one number here that is modelled. The others are read from the compiled kernel.
        "occupancy_modelled": round(
            occupancy(capability, needs.registers, compiled.shared_bytes, compiled.threads // 32), 3
        ),
        "instructions": len(code),
        "tensor_instructions": sum(one.is_tensor for one in code),
        "memory_instructions": sass.memory_counts(code),
        "loop_instructions": len(loop),
        "loop_tensor_instructions": products,
        "loop_instructions_per_tensor_instruction": round(len(loop) / products, 2) if products else None,
    }


def build(index: int, capability: int, output: Path) -> dict[str, Any]:
    """Compile configuration `index` of `shipped()`, write its two files and return its row."""
    # It runs in another process, so it takes an index: the functions in a configuration do not pickle.
    configuration = shipped()[index]
    compiled = compile_kernel(configuration, capability)
    stem = f"{configuration.name}-sm{capability}"
    (output / f"{stem}.cubin").write_bytes(compiled.cubin)
    (output / f"{stem}.ptx").write_text(without_scratch(compiled))
    return {**describe(configuration, capability, compiled), "file": stem}


def build_all(output: Path, capabilities: list[int], kernels: list[str]) -> list[dict[str, Any]]:
    """Compile all shipped configurations of the kernels, write `kernels.json` and return its rows."""
    refuse_interpreter()
    unknown = [one for one in capabilities if one not in CAPABILITIES]
    require(not unknown, f"compute capability must be one of {CAPABILITIES}, got {unknown}")
    output.mkdir(parents=True, exist_ok=True)
    indices = [index for index, one in enumerate(shipped()) if one.kernel in kernels]
    jobs = [(index, capability) for index in indices for capability in capabilities]
    # Spawned: the imported libraries have started threads by now, whose locks a forked process would inherit.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        rows = list(pool.map(build, *zip(*jobs, strict=True), [output] * len(jobs), chunksize=2))
    table = {"triton": triton.__version__, "kernels": rows}
    # The last file to be written, so its presence means that all others are there. It needs no temporary file: a JSON
    # object that was cut off does not parse, so no reader takes it for a whole one.
    (output / "kernels.json").write_text(json.dumps(table, indent=1))
    return rows
