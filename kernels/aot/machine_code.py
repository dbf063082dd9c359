"""Read what a cubin needs and what its machine code does, and model the occupancy that follows."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton

_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
# An address, an optional predicate such as @!P0 or @UP1, the opcode with its modifiers, and the operands:
#         /*0120*/               @!P0 LDG.E.128 R4, [R2.64] ;
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)
# Tensor-core instructions: HMMA up to sm_89 and on sm_120, HGMMA on sm_90, UTC*MMA on sm_100.
_TENSOR = re.compile(r"(HMMA|HGMMA|UTC\w*MMA|OMMA|QMMA)\b")
_MEMORY = ("LDG", "LDGSTS", "STG", "RED", "ATOMG", "LDS", "LDSM", "STS", "LDL", "STL", "UTMALDG")
_REGISTERS = 65_536  # of an SM, on every architecture of `MULTIPROCESSORS`
_RESERVED_SHARED = 1024  # bytes that the driver takes of each block


@dataclass(frozen=True)
class Instruction:
    """Hold one machine instruction.

    address: offset in bytes from the start of the kernel.
    opcode: name with modifiers, such as "LDG.E.128".
    operands: the rest of the line.
    """

    address: int
    opcode: str
    operands: str

    @property
    def is_tensor(self) -> bool:
        """Tell whether it is a matrix product of the tensor cores."""
        return bool(_TENSOR.match(self.opcode))

    @property
    def width(self) -> int:
        """Return the bytes that a memory instruction moves per thread."""
        # Without a width among the modifiers it is 32 bits.
        sizes = re.findall(r"\.(?:U|S)?(8|16|32|64|128)(?=\.|$)", self.opcode)
        return int(sizes[-1]) // 8 if sizes else 4


@dataclass(frozen=True)
class Resources:
    """Hold what a kernel needs to run.

    registers: registers of a thread.
    stack_bytes: stack of a thread.
    """

    registers: int
    stack_bytes: int


@dataclass(frozen=True)
class Multiprocessor:
    """Hold the limits of one SM.

    warps: resident warps.
    blocks: resident blocks.
    shared_bytes: bytes of shared memory.
    """

    warps: int
    blocks: int
    shared_bytes: int


MULTIPROCESSORS = {
    80: Multiprocessor(64, 32, 164 * 1024),
    86: Multiprocessor(48, 16, 100 * 1024),
    89: Multiprocessor(48, 24, 100 * 1024),
    90: Multiprocessor(64, 32, 228 * 1024),
    100: Multiprocessor(64, 32, 228 * 1024),
    120: Multiprocessor(48, 24, 100 * 1024),
}


def resources(cubin: bytes) -> Resources:
    """Read the resources that a cubin states."""
    found = re.search(r"REG:(\d+) STACK:(\d+)", _dump(cubin, "-res-usage"))
    assert found is not None, "cuobjdump printed no resource usage"
    return Resources(*map(int, found.groups()))


def instructions(cubin: bytes) -> list[Instruction]:
    """Disassemble a cubin."""
    return [
        Instruction(int(address, 16), opcode, operands)
        for address, opcode, operands in _INSTRUCTION.findall(_dump(cubin, "-sass"))
    ]


def spill_bytes(code: list[Instruction]) -> int:
    """Count the bytes of spilled registers per thread."""
    # Spills are stores to local memory. The kernels keep no arrays there, so every such store is one.
    return sum(one.width for one in code if one.opcode.startswith("STL"))


def memory_counts(code: list[Instruction]) -> dict[str, int]:
    """Count load and store instructions by kind and bytes per thread, such as `LDG 16`."""
    counts: dict[str, int] = {}
    for one in code:
        kind = one.opcode.split(".")[0]
        if kind in _MEMORY:
            # The numbers of LDSM.16.M88.4 describe matrices and are no widths.
            key = f"{kind} {one.width}" if kind != "LDSM" else kind
            counts[key] = counts.get(key, 0) + 1
    return counts


def main_loop(code: list[Instruction]) -> list[Instruction]:
    """Return the innermost loop with the most tensor-core instructions, or an empty list."""
    # A loop is a backward branch and what it jumps over. Of nested loops around the same products, the innermost is the
    # shortest.
    loops = [_body(code, branch) for branch in code if branch.opcode.startswith("BRA")]
    return max(loops, key=lambda body: (sum(one.is_tensor for one in body), -len(body)), default=[])


def _body(code: list[Instruction], branch: Instruction) -> list[Instruction]:
    # Empty for branches that go forward, and for those whose target is a register.
    target = re.search(r"0x([0-9a-f]+)", branch.operands)
    if target is None or int(target[1], 16) >= branch.address:
        return []
    return [one for one in code if int(target[1], 16) <= one.address <= branch.address]


def _dump(cubin: bytes, option: str) -> str:
    # cuobjdump reads files only.
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([_TOOL, option, file.name], capture_output=True, text=True, check=True).stdout


def occupancy(capability: int, registers: int, shared_bytes: int, warps: int) -> float:
    """Return the resident part of an SM's warps, from 0 to 1.

    Args:
        capability: compute capability as an integer, such as 80.
        registers: registers of a thread.
        shared_bytes: dynamic shared memory of a block.
        warps: warps of a block.
    """
    sm = MULTIPROCESSORS[capability]
    # Registers are allocated to a warp in units of 256.
    registers_per_warp = -(-registers * 32 // 256) * 256
    blocks = min(
        sm.blocks,
        sm.warps // warps,
        _REGISTERS // registers_per_warp // warps,
        sm.shared_bytes // (shared_bytes + _RESERVED_SHARED),
    )
    return blocks * warps / sm.warps
