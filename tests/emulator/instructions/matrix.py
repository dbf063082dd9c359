"""List the matrix products of a warp.

A lane is (row, pair) = (lane / 4, lane % 4). The comments below name the axes of fragments by these two, by the number
of the register, split into halves of the matrix, and by the place in a register.
"""

from collections.abc import Callable

import numpy as np

from tests.emulator.instructions.control import for_all
from tests.emulator.instructions.table import define
from tests.emulator.machine import Array, Handler, Machine, Mask
from tests.emulator.parser import Operand


def fragments(machine: Machine, operand: Operand) -> Array:
    """Return registers as (blocks, warps, 8 rows, 4 pairs, registers)."""
    values = [machine.full(machine.read(one, np.uint32)) for one in operand.items]
    return np.stack(values, -1).reshape(machine.blocks, -1, 8, 4, len(values))


def from_float16(bits: Array) -> Array:
    """Return the float32 values of halves."""
    return bits.view(np.float16).astype(np.float32)


def from_bfloat16(bits: Array) -> Array:
    """Return the float32 values of the upper halves of float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def multiply(widen: Callable[[Array], Array]) -> Handler:
    """Make the product of 16x16 and 16x8 halves that is added to 16x8 float32."""

    def execute(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
        for_all(mask)
        left, right, start = (fragments(machine, one) for one in operands[1:])
        warps = left.shape[:2]
        # (row, pair, right half, lower half, place) to the matrix [(lower half, row), (right half, pair, place)]
        a = widen(left.view(np.uint16)).reshape(*warps, 8, 4, 2, 2, 2).transpose(0, 1, 5, 2, 4, 3, 6)
        # (column, pair, lower half, place) to the matrix [(lower half, pair, place), column]
        b = widen(right.view(np.uint16)).reshape(*warps, 8, 4, 2, 2).transpose(0, 1, 4, 3, 5, 2)
        # (row, pair, lower half, place) to the matrix [(lower half, row), (pair, place)]
        c = start.view(np.float32).reshape(*warps, 8, 4, 2, 2).transpose(0, 1, 4, 2, 3, 5)
        product = a.reshape(*warps, 16, 16) @ b.reshape(*warps, 16, 8) + c.reshape(*warps, 16, 8)
        result = product.reshape(*warps, 2, 8, 4, 2).transpose(0, 1, 3, 4, 2, 5).reshape(machine.blocks, -1, 4)
        for place, item in enumerate(operands[0].items):
            machine.write(item, np.ascontiguousarray(result[..., place]), None)

    return execute


for _type, _widen in (("f16", from_float16), ("bf16", from_bfloat16)):
    define(
        f"mma.sync.aligned.m16n8k16.row.col.f32.{_type}.{_type}.f32",
        "{r,r,r,r} {r,r,r,r} {r,r} {r,r,r,r}",
        multiply(_widen),
    )
