"""List the instructions that move bits and convert between types."""

from collections.abc import Callable

import numpy as np

from tests.emulator.errors import UnknownFormError
from tests.emulator.instructions.table import compute, define
from tests.emulator.machine import STORED, Array, Machine, Mask
from tests.emulator.parser import Operand

# The float32 that the bits of a half stand for, by the half's type.
WIDENED: dict[str, Callable[[Array], Array]] = {
    "f16": lambda a: a.view(np.float16).astype(np.float32),
    "bf16": lambda a: (a.astype(np.uint32) << np.uint32(16)).view(np.float32),
}


def copy(value: Array) -> Array:
    """Return the value itself."""
    return value


def locate(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Write the address of the dynamic shared memory, the one symbol that there is."""
    if operands[1].name != "global_smem":
        raise UnknownFormError(f"the unknown symbol {operands[1].name}")
    machine.write(operands[0], np.zeros((1, 1), np.uint32), mask)


def join(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Write registers beside each other into a wide one, the first into its lowest bits."""
    wide, items = STORED[operands[0].kind], operands[1].items
    total = np.zeros((1, 1), wide)
    for place, item in enumerate(items):
        piece = machine.piece(item)
        total = total | piece.astype(wide) << wide(8 * piece.itemsize * place)
    machine.write(operands[0], total, mask)


def separate(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Write the pieces of a wide register, the lowest bits into the first."""
    value = machine.read(operands[1], STORED[operands[1].kind])
    bits = 8 * value.itemsize // len(operands[0].items)
    for place, item in enumerate(operands[0].items):
        piece = value >> value.dtype.type(bits * place)
        machine.write(item, piece.astype(f"u{bits // 8}"), mask)


def permute(a: Array, b: Array, selectors: Array) -> Array:
    """Choose each byte of the result among the eight of b and a, or eight copies of its sign."""
    pair = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    result = np.zeros((1, 1), np.uint32)
    for place in range(4):
        selector = selectors >> np.uint32(4 * place)
        byte = (pair >> ((selector & np.uint32(7)) * np.uint32(8)).astype(np.uint64) & np.uint64(0xFF)).astype(
            np.uint32
        )
        byte = np.where(selector & 8, byte // 128 * 255, byte).astype(np.uint32)
        result = result | byte << np.uint32(8 * place)
    return result


def to_bfloat16(value: Array) -> Array:
    """Round float32 to the nearest bfloat16, ties to even, and return its bits."""
    bits = value.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return np.where(np.isnan(value), 0x7FFF, rounded >> np.uint32(16)).astype(np.uint16)


def to_float16(value: Array) -> Array:
    """Round float32 to the nearest float16, ties to even, and return its bits."""
    return np.where(np.isnan(value), 0x7FFF, value.astype(np.float16).view(np.uint16)).astype(np.uint16)


def beside(high: Array, low: Array) -> Array:
    """Return 32 bits of two halves."""
    return high.astype(np.uint32) << np.uint32(16) | low


for _kind in ("pred", "b16", "u16", "b32", "u32", "b64", "u64"):
    compute(f"mov.{_kind}", f"{_kind} = {_kind}", copy)
define("mov.u32", "r %tid.x|%tid.y|%tid.z|%ctaid.x|%ctaid.y|%ctaid.z", lambda machine, operands, mask: machine.write(
    operands[0], machine.read(operands[1], np.uint32), mask
))  # fmt: skip
define("mov.b32", "r symbol", locate)
define("mov.b32", "r {rs,rs}", join)
define("mov.b64", "rd {r,r}", join)
define("mov.b32", "{rs,rs}|{rs,_}|{_,rs} r", separate)
define("mov.b64", "{r,r}|{r,_}|{_,r} rd", separate)
compute("prmt.b32", "b32 = b32 b32 b32", permute)

compute("cvt.s64.s32", "s64 = s32", lambda a: a.astype(np.int64))
compute("cvt.u64.u32", "u64 = u32", lambda a: a.astype(np.uint64))
compute("cvt.u32.u64", "u32 = u64", lambda a: a.astype(np.uint32))
compute("cvt.u32.u16", "u32 = u16", lambda a: a.astype(np.uint32))
compute("cvt.s32.s16", "s32 = s16", lambda a: a.astype(np.int32))
compute("cvt.s32.s8", "s32 = b32", lambda a: a.astype(np.int8).astype(np.int32))
compute("cvt.u16.u32", "u16 = u32", lambda a: a.astype(np.uint16))
for _half, _widen in WIDENED.items():
    compute(f"cvt.f32.{_half}", "f32 = b16", _widen)
compute("cvt.rn.f16.f32", "b16 = f32", to_float16)
compute("cvt.rn.bf16.f32", "b16 = f32", to_bfloat16)
compute("cvt.rn.f16x2.f32", "b32 = f32 f32", lambda a, b: beside(to_float16(a), to_float16(b)))
compute("cvt.rn.bf16x2.f32", "b32 = f32 f32", lambda a, b: beside(to_bfloat16(a), to_bfloat16(b)))
