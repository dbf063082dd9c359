"""Parse a module of PTX, in the form that Triton emits it, into one kernel.

What the grammar below does not know is refused with its line, never skipped.
"""

import re
from dataclasses import dataclass

from tests.emulator.errors import UnknownFormError

# Registers by the prefix of their names, with the type that their declaration must state.
DECLARED = {"p": "pred", "rs": "b16", "r": "b32", "rd": "b64"}
SPECIAL = ("%tid.x", "%tid.y", "%tid.z", "%ctaid.x", "%ctaid.y", "%ctaid.z")
_REGISTER = re.compile(r"%(p|rs|r|rd)\d+")
_INTEGER = re.compile(r"(-?(?:0x[0-9a-fA-F]+|\d+))U?")
_FLOAT = re.compile(r"0f([0-9a-fA-F]{8})")
_LABEL = re.compile(r"\$L__\w+")
_SYMBOL = re.compile(r"[A-Za-z_]\w*")
_ADDRESS = re.compile(r"\[\s*([%\w]+)\s*(?:\+\s*(\S+?)\s*)?\]")
_LINE = re.compile(r"(?:@(!?)(%p\d+)\s+)?([a-z][\w.:]*)(?:\s+(.*?))?\s*;")
_ENTRY = re.compile(r"\.visible \.entry (\w+)\((.*?)\)\s*\.reqntid (\d+)(?:, 1, 1)?\s*\{\n(.*)\n\}", re.DOTALL)
_PARAMETER = re.compile(r"\s*\.param \.(u64|u32)(?: \.ptr \.global \.align \d+)? (\w+)\s*")
# Hints for the assembler's optimiser.
_PRAGMA = re.compile(r'\.pragma "(nounroll|used_bytes_mask 0x[0-9a-f]+)";')
_REGISTERS = re.compile(r"\.reg \.(\w+)\s+%(\w+)<\d+>;")


@dataclass(frozen=True)
class Operand:
    """Hold one operand.

    kind: "p", "rs", "r" and "rd" for registers, "n" and "f" for an integer and the bits of a float, "_" for a sink,
        "label", "symbol", the name of a special register, "[r]" for an address by the kind of its base, and "{r,r}" for
        a vector by the kinds of its items.
    name: of the register, the label, the symbol, or the base of an address.
    value: of a number, or the offset of an address.
    items: of a vector.
    """

    kind: str
    name: str = ""
    value: int = 0
    items: "tuple[Operand, ...]" = ()


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """Hold one instruction.

    line: its number in the module, from 1, and its text.
    guard: the predicate register that it is executed under, or "".
    negated: whether it is executed where the guard is false.
    opcode: in full, with all modifiers.
    operands: the destination first.
    """

    line: str
    guard: str
    negated: bool
    opcode: str
    operands: tuple[Operand, ...]


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Hold a parsed kernel.

    name: of the entry.
    parameters: their names and sizes in bytes, in order.
    threads: of a block.
    code: the instructions.
    labels: the position in `code` that each label stands before.
    """

    name: str
    parameters: tuple[tuple[str, int], ...]
    threads: int
    code: tuple[Instruction, ...]
    labels: dict[str, int]


def parse(ptx: str) -> Kernel:
    """Parse a module that holds one kernel."""
    entries = list(_ENTRY.finditer(ptx))
    if len(entries) != 1 or ptx.count(".entry") != 1 or ".func" in ptx:
        raise UnknownFormError(f"a module must hold one kernel and no function, found {ptx.count('.entry')} kernels")
    name, parameters, threads, body = entries[0].groups()
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    first = ptx.count("\n", 0, entries[0].start(4)) + 1
    for number, text in enumerate(body.splitlines(), first):
        statement, line = text.split("//")[0].strip(), f"line {number}: {text.strip()}"
        if statement.endswith(":") and _LABEL.fullmatch(statement[:-1]):
            labels[statement[:-1]] = len(code)
        elif statement.startswith("."):
            _check_declaration(statement, line)
        elif statement:
            code.append(_instruction(statement, line))
    return Kernel(
        name=name,
        parameters=tuple(_parameter(one) for one in parameters.split(",")),
        threads=int(threads),
        code=tuple(code),
        labels=labels,
    )


def _parameter(text: str) -> tuple[str, int]:
    if not (found := _PARAMETER.fullmatch(text)):
        raise UnknownFormError(f"unknown form of a parameter: {text.strip()}")
    return found[2], 8 if found[1] == "u64" else 4


def _check_declaration(statement: str, line: str) -> None:
    """Refuse registers of other types than their names say, and everything else that is declared in a body."""
    found = _REGISTERS.fullmatch(statement)
    if (not found or DECLARED.get(found[2]) != found[1]) and not _PRAGMA.fullmatch(statement):
        raise UnknownFormError(f"unknown declaration in {line}")


def _instruction(statement: str, line: str) -> Instruction:
    if not (found := _LINE.fullmatch(statement)):
        raise UnknownFormError(f"unknown statement in {line}")
    negated, guard, opcode, operands = found.groups()
    return Instruction(
        line=line,
        guard=guard or "",
        negated=negated == "!",
        opcode=opcode,
        operands=tuple(_operand(one, line) for one in _split(operands or "")),
    )


def _split(text: str) -> list[str]:
    """Split operands at the commas outside of braces."""
    return [one.strip() for one in re.findall(r"(?:\{[^}]*\}|[^,{])+", text) if one.strip()]


def _operand(text: str, line: str) -> Operand:
    if text.startswith("{") and text.endswith("}"):
        items = tuple(_operand(one.strip(), line) for one in text[1:-1].split(","))
        return Operand("{" + ",".join(one.kind for one in items) + "}", items=items)
    if found := _ADDRESS.fullmatch(text):
        base = _operand(found[1], line)
        return Operand(f"[{base.kind}]", base.name, _integer(found[2], line) if found[2] else 0)
    if found := _REGISTER.fullmatch(text):
        return Operand(found[1], text)
    if text in SPECIAL or text == "_":
        return Operand(text, text)
    if found := _FLOAT.fullmatch(text):
        return Operand("f", value=int(found[1], 16))
    if _LABEL.fullmatch(text):
        return Operand("label", text)
    if _SYMBOL.fullmatch(text):
        return Operand("symbol", text)
    return Operand("n", value=_integer(text, line))


def _integer(text: str, line: str) -> int:
    if not (found := _INTEGER.fullmatch(text)):
        raise UnknownFormError(f"unknown operand {text} in {line}")
    return int(found[1], 0)
