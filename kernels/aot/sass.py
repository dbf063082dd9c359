"""What a cubin needs and what its machine code does, read with the tools of the Triton wheel."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton

_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", re.MULTILINE)
_TENSOR = re.compile(r"(HMMA|HGMMA|UTC\w*MMA|OMMA|QMMA)\b")
_MEMORY = ("LDG", "LDGSTS", "STG", "RED", "ATOMG", "LDS", "LDSM", "STS", "LDL", "STL", "UTMALDG")


@dataclass(frozen=True)
class Instruction:
    address: int
    opcode: str
    operands: str

    @property
    def is_tensor(self) -> bool:
        return bool(_TENSOR.match(self.opcode))

    @property
    def width(self) -> int:
        """Bytes a thread of a memory instruction."""
        sizes = re.findall(r"\.(?:U|S)?(8|16|32|64|128)(?=\.|$)", self.opcode)
        return int(sizes[-1]) // 8 if sizes else 4


@dataclass(frozen=True)
class Resources:
    """registers and stack of a thread, static shared bytes of a block."""

    registers: int
    stack_bytes: int
    static_shared_bytes: int


def resources(cubin: bytes) -> Resources:
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", _dump(cubin, "-res-usage"))
    assert found is not None, "cuobjdump printed no resource usage"
    return Resources(*map(int, found.groups()))


def instructions(cubin: bytes) -> list[Instruction]:
    return [
        Instruction(int(address, 16), opcode, operands)
        for address, opcode, operands in _INSTRUCTION.findall(_dump(cubin, "-sass"))
    ]


def spill_bytes(code: list[Instruction]) -> int:
    """Bytes a thread stores to local memory; the kernels keep no arrays there, so each is a spilled register."""
    return sum(one.width for one in code if one.opcode.startswith("STL"))


def memory_counts(code: list[Instruction]) -> dict[str, int]:
    """Load and store instructions by kind and bytes a thread, such as `LDG 16`."""
    counts: dict[str, int] = {}
    for one in code:
        kind = one.opcode.split(".")[0]
        if kind in _MEMORY:
            key = f"{kind} {one.width}" if kind != "LDSM" else kind
            counts[key] = counts.get(key, 0) + 1
    return counts


def main_loop(code: list[Instruction]) -> list[Instruction]:
    """The innermost loop with the most tensor-core instructions: a backward branch and what it jumps over."""
    loops = [_body(code, branch) for branch in code if branch.opcode.startswith("BRA")]
    return max(loops, key=lambda body: (sum(one.is_tensor for one in body), -len(body)), default=[])


def _body(code: list[Instruction], branch: Instruction) -> list[Instruction]:
    target = re.search(r"0x([0-9a-f]+)", branch.operands)
    if target is None or int(target[1], 16) >= branch.address:
        return []
    return [one for one in code if int(target[1], 16) <= one.address <= branch.address]


def _dump(cubin: bytes, option: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([_TOOL, option, file.name], capture_output=True, text=True, check=True).stdout
