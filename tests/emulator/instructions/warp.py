"""List the instructions by which the threads of a warp exchange values and load fragments of matrices."""

from collections.abc import Callable

import numpy as np

from tests.emulator.errors import UnknownFormError
from tests.emulator.instructions.control import for_all
from tests.emulator.instructions.table import define
from tests.emulator.machine import Array, Handler, Machine, Mask
from tests.emulator.parser import Operand

LANES = np.arange(32)


def by_warp(machine: Machine, value: Array) -> Array:
    """Return values as (blocks, warps, lanes)."""
    return machine.full(value).reshape(machine.blocks, -1, 32)


def shuffle(source: Callable[[Array], Array]) -> Handler:
    """Make the exchange in which each lane takes the value of the lane that `source` gives."""

    def execute(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
        for_all(mask)
        if (operands[3].value, operands[4].value % 2**32) != (31, 2**32 - 1):
            raise UnknownFormError("a shuffle within a part of a warp")
        values = by_warp(machine, machine.read(operands[1], np.uint32))
        lanes = source(by_warp(machine, machine.read(operands[2], np.uint32)) & np.uint32(31))
        taken = np.take_along_axis(values, lanes.astype(np.int64), -1)
        machine.write(operands[0], taken.reshape(machine.blocks, -1), None)

    return execute


def addressing(machine: Machine, matrices: int) -> Mask:
    """Return the threads that give the address of a row: eight lanes for each matrix."""
    return machine.full(np.arange(machine.threads) % 32 < 8 * matrices)


def load_matrices(transposed: bool) -> Handler:
    """Make the load of 8x8 matrices of halves, of which lane l gets the two values 2 (l % 4) of row l / 4."""

    def execute(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
        for_all(mask)
        count = len(operands[0].items)
        rows = machine.shared.load(machine.address(operands[1]), 16, addressing(machine, count))
        lanes = rows.view(np.uint16).reshape(machine.blocks, -1, 32, 8)[:, :, : 8 * count]
        matrices = lanes.reshape(machine.blocks, -1, count, 8, 8)
        if transposed:
            matrices = matrices.swapaxes(3, 4)
        # Pairs of halves are words, whose order in a matrix is that of the lanes.
        words = np.ascontiguousarray(matrices).view(np.uint32)
        for place, item in enumerate(operands[0].items):
            machine.write(item, words[:, :, place].reshape(machine.blocks, -1), None)

    return execute


def store_matrices(transposed: bool) -> Handler:
    """Make the store of 8x8 matrices of halves, the inverse of their load."""

    def execute(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
        for_all(mask)
        items = operands[1].items
        values = np.stack([by_warp(machine, machine.read(one, np.uint32)) for one in items], 2)
        matrices = values.reshape(*values.shape[:3], 8, 4).view(np.uint16)
        if transposed:
            matrices = matrices.swapaxes(3, 4)
        rows = np.zeros((*values.shape[:2], 32, 8), np.uint16)
        rows[:, :, : 8 * len(items)] = matrices.reshape(*values.shape[:2], -1, 8)
        data = rows.view(np.uint8).reshape(machine.blocks, machine.threads, 16)
        machine.shared.store(machine.address(operands[0]), data, addressing(machine, len(items)))

    return execute


define("shfl.sync.bfly.b32", "r r r|n n n", shuffle(lambda distance: LANES ^ distance))
define("shfl.sync.idx.b32", "r r r|n n n", shuffle(lambda lane: lane))
for _count in (1, 2, 4):
    _items = "{" + ",".join(["r"] * _count) + "}"
    for _form, _transposed in (("", False), (".trans", True)):
        _shape = f"sync.aligned.m8n8.x{_count}{_form}.shared.b16"
        define(f"ldmatrix.{_shape}", f"{_items} [r]", load_matrices(_transposed))
        define(f"stmatrix.{_shape}", f"[r] {_items}", store_matrices(_transposed))
