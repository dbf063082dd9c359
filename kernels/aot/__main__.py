"""Compile every shipped kernel for every architecture, without a GPU, and say what the compiler made of it.

    python -m kernels.aot --output DIR [--compute-capability 80 ...]

writes one `.cubin` and one `.ptx` each and `kernels.json`. The PTX has the kernel's own parameters only, as TensorRT
passes them; the cubin keeps Triton's two unused scratch pointers behind them, as Triton's launcher passes them.
"""

import argparse
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton

from kernels.aot import sass
from kernels.aot.compile import Compiled, compile_kernel, refuse_interpreter, without_scratch
from kernels.aot.configurations import TRITON_TYPES, Configuration, shipped
from kernels.aot.occupancy import MULTIPROCESSORS, occupancy
from kernels.errors import KernelInputError, require

CAPABILITIES = tuple(MULTIPROCESSORS)


def describe(configuration: Configuration, capability: int, compiled: Compiled) -> dict[str, Any]:
    """One row of the table. Occupancy is modelled; the rest is read from the cubin."""
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
        "shared_bytes": compiled.shared_bytes,
        "warps": compiled.threads // 32,
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
    configuration = shipped()[index]
    compiled = compile_kernel(configuration, capability)
    stem = f"{configuration.name}-sm{capability}"
    (output / f"{stem}.cubin").write_bytes(compiled.cubin)
    (output / f"{stem}.ptx").write_text(without_scratch(compiled))
    return {**describe(configuration, capability, compiled), "file": stem}


def build_all(output: Path, capabilities: list[int], kernels: list[str]) -> list[dict[str, Any]]:
    """Rows of all shipped configurations of the kernels; `kernels.json` appears when all files are there."""
    refuse_interpreter()
    unknown = [one for one in capabilities if one not in CAPABILITIES]
    require(not unknown, f"compute capability must be one of {CAPABILITIES}, got {unknown}")
    output.mkdir(parents=True, exist_ok=True)
    indices = [index for index, one in enumerate(shipped()) if one.kernel in kernels]
    jobs = [(index, capability) for index in indices for capability in capabilities]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        rows = list(pool.map(build, *zip(*jobs, strict=True), [output] * len(jobs), chunksize=2))
    table = {"triton": triton.__version__, "kernels": rows}
    draft = output / "kernels.json.tmp"
    draft.write_text(json.dumps(table, indent=1))
    draft.replace(output / "kernels.json")
    return rows


def main(arguments: list[str] | None = None) -> int:
    names = sorted({one.kernel for one in shipped()})
    parser = argparse.ArgumentParser(prog="python -m kernels.aot", description="compile all kernels, without a GPU")
    parser.add_argument("--output", type=Path, required=True, help="folder for cubins, PTX and kernels.json")
    parser.add_argument("--compute-capability", type=int, action="append", metavar="CC", help=f"of {CAPABILITIES}")
    parser.add_argument("--kernel", action="append", choices=names, help="only this kernel (repeatable)")
    options = parser.parse_args(arguments)
    try:
        rows = build_all(options.output, options.compute_capability or list(CAPABILITIES), options.kernel or names)
    except (KernelInputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    spilled = [row["file"] for row in rows if row["spill_bytes"]]
    print(
        f"{len(rows)} kernels in {options.output}, {len(spilled)} of them with spills: {', '.join(spilled) or 'none'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
