"""List the instructions that move data between registers, shared memory and global memory."""

import numpy as np

from tests.emulator.errors import UnknownFormError
from tests.emulator.instructions.control import for_all
from tests.emulator.instructions.table import define
from tests.emulator.machine import STORED, Copy, Handler, Machine, Mask, poison
from tests.emulator.parser import Operand


def load_parameter(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Load an argument of the kernel, whole."""
    value = machine.parameters.get(operands[1].name)
    if value is None or operands[1].value or value.dtype != STORED[operands[0].kind]:
        raise UnknownFormError("a load of something else than a whole parameter")
    machine.write(operands[0], value, mask)


def load(space: str, bits: int) -> Handler:
    """Make the load of a register or of a vector of them, each of `bits`."""

    def execute(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
        items = operands[0].items or (operands[0],)
        size, addresses, active = len(items) * bits // 8, machine.address(operands[1]), machine.active(mask)
        if space == "global":
            data = np.zeros((*active.shape, size), np.uint8)
            data[active] = machine.memory.load(addresses[active], size)
        else:
            data = machine.shared.load(addresses, size, active)
        for place, item in enumerate(items):
            value = data.view(f"u{bits // 8}")[..., place]
            # A wider register takes the value with zeros above it.
            machine.write(item, np.ascontiguousarray(value).astype(STORED[item.kind]), mask)

    return execute


def store(space: str, bits: int) -> Handler:
    """Make the store of a register or of a vector of them, each of `bits`."""

    def execute(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
        items = operands[1].items or (operands[1],)
        addresses, active = machine.address(operands[0]), machine.active(mask)
        values = [machine.full(machine.read(one, STORED.get(one.kind, f"u{bits // 8}"))) for one in items]
        data = np.stack(values, -1).view(np.uint8)
        if space == "global":
            machine.memory.store(addresses[active], data[active])
        else:
            machine.shared.store(addresses, data, active)

    return execute


def add(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Add float32 values to global memory, each addition on its own."""
    items = operands[1].items or (operands[1],)
    active = machine.active(mask)
    values = np.stack([machine.full(machine.read(one, np.float32)) for one in items], -1)
    machine.memory.add_float32(machine.address(operands[0])[active], values[active])


def add_and_return(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Add as above. The values before, which our kernels do not use, are not known: poison stands for them."""
    add(machine, operands[1:], mask)
    for item in operands[0].items or (operands[0],):
        machine.write(item, poison(np.uint32), mask)


def copy(sizes: tuple[int, ...]) -> Handler:
    """Make the asynchronous copy to shared memory of one of `sizes` bytes, zeros where it is told to read none."""

    def execute(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
        size, active = operands[2].value, machine.active(mask)
        taken = machine.full(machine.read(operands[3] if len(operands) == 4 else operands[2], np.uint32))
        if size not in sizes or not np.isin(taken[active], (0, size)).all():
            raise UnknownFormError(f"an asynchronous copy of {np.unique(taken[active])} of {size} bytes")
        target, reads = machine.address(operands[0]), active & (taken == size)
        data = np.zeros((*active.shape, size), np.uint8)
        data[reads] = machine.memory.load(machine.address(operands[1])[reads], size)
        machine.shared.expect(target, size, active)
        machine.groups[-1].append(Copy(target, data, active))

    return execute


def commit(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Close the open group of copies."""
    for_all(mask)
    machine.groups.append([])


def wait(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Let all closed groups arrive but the newest ones, whose number the operand gives."""
    for_all(mask)
    while len(machine.groups) - 1 > operands[0].value:
        for one in machine.groups.pop(0):
            machine.shared.arrive(one.addresses, one.data, one.mask)


def vector(kind: str, count: int) -> str:
    """Return the kinds of the operand that stands for `count` registers."""
    braces = "{" + ",".join([kind] * count) + "}"
    return braces if count > 1 else f"{kind}|{braces}"


define("ld.param.b32", "r [symbol]", load_parameter)
define("ld.param.b64", "rd [symbol]", load_parameter)
for _space, _base in (("global", "[rd]"), ("shared", "[r]")):
    for _bits, _kind in ((16, "rs"), (32, "r"), (64, "rd")):
        for _count in (1, 2, 4):
            # No access is wider than 16 bytes.
            if _count * _bits <= 128:
                _many = f".v{_count}" if _count > 1 else ""
                define(f"ld.{_space}{_many}.b{_bits}", f"{vector(_kind, _count)} {_base}", load(_space, _bits))
                define(f"st.{_space}{_many}.b{_bits}", f"{_base} {vector(_kind, _count)}", store(_space, _bits))
define("ld.shared.b32", "rd [r]", load("shared", 32))
for _count in (2, 4):
    for _number in ("n", "f"):
        define(f"st.shared.v{_count}.b32", f"[r] {vector(_number, _count)}", store("shared", 32))
for _count in (1, 2, 4):
    _many = f".v{_count}" if _count > 1 else ""
    define(f"red.global.gpu.relaxed.add{_many}.f32", f"[rd] {vector('r', _count)}", add)
    define(
        f"atom.global.gpu.relaxed.add{_many}.f32", f"{vector('r', _count)} [rd] {vector('r', _count)}", add_and_return
    )
for _operands in ("[r] [rd] n", "[r] [rd] n r|n"):
    define("cp.async.ca.shared.global", _operands, copy((4, 8, 16)))
    define("cp.async.cg.shared.global", _operands, copy((16,)))
define("cp.async.commit_group", "", commit)
define("cp.async.wait_group", "n", wait)
