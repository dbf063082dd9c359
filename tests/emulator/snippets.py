"""Run a few lines of PTX on columns of values, a row for each thread."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.emulator.machine import Outcome, Program
from tests.emulator.memory import GlobalMemory
from tests.emulator.parser import parse

Column = npt.NDArray[Any]
REGISTERS = {"pred": "%p", "16": "%rs", "32": "%r", "64": "%rd"}
PARTS: dict[str, Any] = {"16": np.uint16, "32": np.uint32, "64": np.uint64}
DECLARATIONS = ".reg .pred %p<99>;\n.reg .b16 %rs<99>;\n.reg .b32 %r<99>;\n.reg .b64 %rd<99>;"


def module(body: str, parameters: int, threads: int) -> str:
    """Return a kernel whose parameters are pointers, which it has in %rd90 and up, with the thread's number in %r90."""
    names = [f"kernel_param_{index}" for index in range(parameters)]
    listed = ",\n".join(f".param .u64 .ptr .global .align 1 {name}" for name in names)
    loads = "\n".join(f"ld.param.b64 %rd{90 + index}, [{name}];" for index, name in enumerate(names))
    return (
        f".visible .entry kernel(\n{listed}\n)\n.reqntid {threads}\n"
        f"{{\n{DECLARATIONS}\nmov.u32 %r90, %tid.x;\n{loads}\n{body}\nret;\n}}\n"
    )


def run(body: str, *columns: Column, threads: int = 32, shared_bytes: int = 0, blocks: int = 1) -> Outcome:
    """Run the lines with pointers to the columns."""
    memory = GlobalMemory()
    for column in columns:
        memory.add(column.ctypes.data, column.nbytes)
    program = Program(parse(module(body, len(columns), threads)))
    return program.launch(blocks, shared_bytes, memory, [column.ctypes.data for column in columns])


def width(kind: str) -> str:
    """Return the bits of a type's register in memory. Predicates are there as words."""
    return "32" if kind == "pred" else kind[1:]


def apply(opcode: str, types: str, sources: Sequence[Column]) -> Column:
    """Execute `opcode` on columns of bits, one for each source, and return the bits of the result.

    `types` names those of the result and of the sources, as in "s64 s32 s32".
    """
    result, *kinds = types.split()
    out = np.zeros(len(sources[0]), PARTS[width(result)])
    lines, operands = [], []
    for place, kind in enumerate(kinds, 1):
        bits = width(kind)
        operands.append(f"{REGISTERS[kind if kind == 'pred' else bits]}{place}")
        target = f"{REGISTERS[bits]}{place}"
        lines += [
            f"mul.wide.u32 %rd80, %r90, {int(bits) // 8};",
            f"add.s64 %rd81, %rd{90 + place}, %rd80;",
            f"ld.global.b{bits} {target}, [%rd81];",
        ]
        if kind == "pred":
            lines.append(f"setp.ne.b32 {operands[-1]}, {target}, 0;")
    bits = width(result)
    lines.append(f"{opcode} {REGISTERS[result if result == 'pred' else bits]}70, {', '.join(operands)};")
    if result == "pred":
        lines.append("selp.b32 %r70, 1, 0, %p70;")
    lines += [
        f"mul.wide.u32 %rd80, %r90, {int(bits) // 8};",
        "add.s64 %rd81, %rd90, %rd80;",
        f"st.global.b{bits} [%rd81], {REGISTERS[bits]}70;",
    ]
    run("\n".join(lines), out, *sources, threads=len(out))
    return out


def random_bits(count: int, kind: str, seed: int) -> Column:
    """Draw bits of a type: half of them anywhere, the others at the ends of its range, small, and special floats."""
    random = np.random.default_rng(seed)
    part = PARTS[width(kind)]
    anywhere = random.integers(0, 2 ** int(width(kind)), count, part, endpoint=False)
    if kind == "pred":
        return (anywhere % 2).astype(part)
    if kind == "f32":
        special = [0.0, -0.0, 1.0, -1.5, math.inf, -math.inf, math.nan, 1e-40, -1e-42, 3.4e38, 1e-38, 7.25]
        edges = np.array(special, np.float32).view(part)
    else:
        half = 1 << int(width(kind)) - 1
        edges = np.array([0, 1, 2, 7, 31, 32, 40, half - 1, half, 2 * half - 1, 2 * half - 3], part)
    return np.where(random.random(count) < 0.5, anywhere, random.choice(edges, count)).astype(part)
