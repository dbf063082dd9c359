"""Hold the table of instructions: a full opcode and the kinds of its operands lead to one handler.

Nothing is derived from parts of an opcode. A form that is not listed is refused.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.emulator.errors import UnknownFormError
from tests.emulator.machine import Array, Handler, Machine, Mask
from tests.emulator.parser import Instruction, Operand

TYPES: dict[str, Any] = {
    "pred": np.bool_,
    "b16": np.uint16,
    "b32": np.uint32,
    "b64": np.uint64,
    "u16": np.uint16,
    "u32": np.uint32,
    "u64": np.uint64,
    "s16": np.int16,
    "s32": np.int32,
    "s64": np.int64,
    "f32": np.float32,
}
_REGISTERS = {"pred": "p", "16": "rs", "32": "r", "64": "rd"}
_TABLE: dict[str, list[tuple[tuple[frozenset[str], ...], Handler]]] = {}


def define(opcode: str, form: str, handler: Handler) -> None:
    """List an instruction.

    Args:
        opcode: in full.
        form: the kinds of its operands with a blank between, `|` between the kinds that one place may take.
        handler: executes it.
    """
    kinds = tuple(frozenset(place.split("|")) for place in form.split())
    _TABLE.setdefault(opcode, []).append((kinds, handler))


def compute(opcode: str, types: str, function: Callable[..., Array]) -> None:
    """List an instruction that computes one register from others of the same thread.

    Args:
        opcode: in full.
        types: of the result, an equals sign, and the types of the sources. A number may stand for any source.
        function: from arrays of the sources' types to an array of the result's type.
    """
    target, _, rest = types.partition(" = ")
    result, sources = TYPES[target], [TYPES[one] for one in rest.split()]

    def execute(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
        values = [machine.read(one, source) for one, source in zip(operands[1:], sources, strict=True)]
        value = function(*values)
        # NumPy would widen small integers without a word.
        assert value.dtype == result, f"{opcode} computed {value.dtype}"
        machine.write(operands[0], value, mask)

    define(opcode, " ".join([_register(target), *(_source(one) for one in rest.split())]), execute)


def look_up(instruction: Instruction) -> Handler:
    """Return what executes an instruction."""
    found = [one.kind for one in instruction.operands]
    for kinds, handler in _TABLE.get(instruction.opcode, []):
        if len(found) == len(kinds) and all(kind in places for kind, places in zip(found, kinds, strict=True)):
            return handler
    known = "form" if instruction.opcode in _TABLE else "opcode"
    raise UnknownFormError(f"unknown {known} {instruction.opcode} {' '.join(found)} in {instruction.line}")


def opcodes() -> frozenset[str]:
    """Return all full opcodes of the table."""
    return frozenset(_TABLE)


def _register(name: str) -> str:
    return _REGISTERS[name if name == "pred" else name[1:]]


def _source(name: str) -> str:
    numbers = {"f": "f", "b": "n|f"}.get(name[0], "n")
    return f"{_register(name)}|{numbers}"
