"""List the instructions on integers and on predicates."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.emulator.errors import UndefinedError
from tests.emulator.instructions.table import TYPES, compute
from tests.emulator.machine import Array

COMPARISONS: dict[str, Callable[..., Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def define_comparisons(names: str, kind: str) -> None:
    """List the comparisons of one type."""
    for name in names.split():
        compute(f"setp.{name}.{kind}", f"pred = {kind} {kind}", COMPARISONS[name])


def wide(kind: str) -> Any:
    """Return the type of twice the width."""
    return TYPES[f"{kind[0]}{2 * int(kind[1:])}"]


def multiply_wide(kind: str) -> Any:
    """Return the product of two values in twice their width."""
    return lambda a, b: a.astype(wide(kind)) * b.astype(wide(kind))


def multiply_add_wide(kind: str) -> Any:
    """Return the product of two values, plus a third, in twice their width."""
    return lambda a, b, c: multiply_wide(kind)(a, b) + c


def multiply_high(kind: str) -> Any:
    """Return the upper half of the product."""
    bits = wide(kind)(kind[1:])
    return lambda a, b: (multiply_wide(kind)(a, b) >> bits).astype(TYPES[kind])


def divide(a: Array, b: Array) -> Array:
    """Divide towards zero. Only -2^31 by -1 leaves the range, and wraps."""
    if not b.all():
        raise UndefinedError("a division by zero")
    wide_a, wide_b = a.astype(np.int64), b.astype(np.int64)
    quotient = np.abs(wide_a) // np.abs(wide_b)
    return np.where((wide_a < 0) != (wide_b < 0), -quotient, quotient).astype(a.dtype)


def remain(a: Array, b: Array) -> Array:
    """Return what a division towards zero leaves."""
    rest: Array = a - divide(a, b) * b
    return rest


def shift_left(a: Array, count: Array) -> Array:
    """Shift left, to 0 where the count reaches the width."""
    bits = 8 * a.dtype.itemsize
    return np.where(count < bits, a << (count % bits).astype(a.dtype), a.dtype.type(0))


def shift_right(a: Array, count: Array) -> Array:
    """Shift right with copies of the sign, or with zeros where the type has none."""
    bits = 8 * a.dtype.itemsize
    # A shift by the width or more leaves the copies alone: two shifts of less do the same.
    most = np.minimum(count, bits - 1).astype(a.dtype)
    shifted: Array = (a >> most) >> (count >= bits).astype(a.dtype)
    return shifted


def shift_pair_left(low: Array, high: Array, count: Array) -> Array:
    """Shift a pair of words left by the last five bits of the count, and return the higher one."""
    pair = high.astype(np.uint64) << np.uint64(32) | low
    return ((pair << (count & 31).astype(np.uint64)) >> np.uint64(32)).astype(np.uint32)


def extract(a: Array, position: Array, length: Array) -> Array:
    """Extract `length` bits from `position` on, extended by their highest (or by the last of all) where signed."""
    position, length = position & 0xFF, length & 0xFF
    signed = a.dtype == np.int32
    value = shift_right(a.astype(np.int64 if signed else np.uint64), position)
    gap = np.where(length > 32, 32, 64 - np.minimum(length, 64))
    raised = shift_left(value, gap.astype(np.uint32))
    inside = shift_right(raised, gap.astype(np.uint32))
    return np.where(length == 0, 0, inside).astype(a.dtype)


for _kind in ("s32", "s64"):
    compute(f"add.{_kind}", f"{_kind} = {_kind} {_kind}", np.add)
    compute(f"sub.{_kind}", f"{_kind} = {_kind} {_kind}", np.subtract)
    compute(f"neg.{_kind}", f"{_kind} = {_kind}", np.negative)
    compute(f"abs.{_kind}", f"{_kind} = {_kind}", np.abs)
for _kind in ("s16", "s32", "s64"):
    compute(f"mul.lo.{_kind}", f"{_kind} = {_kind} {_kind}", np.multiply)
for _kind in ("u16", "s16", "u32", "s32"):
    _double = f"{_kind[0]}{2 * int(_kind[1:])}"
    compute(f"mul.wide.{_kind}", f"{_double} = {_kind} {_kind}", multiply_wide(_kind))
    compute(f"mul.hi.{_kind}", f"{_kind} = {_kind} {_kind}", multiply_high(_kind))
    compute(f"mad.wide.{_kind}", f"{_double} = {_kind} {_kind} {_double}", multiply_add_wide(_kind))
for _kind in ("s32", "s64"):
    compute(f"mad.lo.{_kind}", f"{_kind} = {_kind} {_kind} {_kind}", lambda a, b, c: a * b + c)
for _kind in ("s32", "u32"):
    compute(f"div.{_kind}", f"{_kind} = {_kind} {_kind}", divide)
    compute(f"rem.{_kind}", f"{_kind} = {_kind} {_kind}", remain)
    compute(f"bfe.{_kind}", f"{_kind} = {_kind} u32 u32", extract)
for _kind in ("s32", "u32", "s64", "u64"):
    compute(f"min.{_kind}", f"{_kind} = {_kind} {_kind}", np.minimum)
    compute(f"max.{_kind}", f"{_kind} = {_kind} {_kind}", np.maximum)

for _kind in ("pred", "b16", "b32", "b64"):
    compute(f"and.{_kind}", f"{_kind} = {_kind} {_kind}", np.bitwise_and)
    compute(f"or.{_kind}", f"{_kind} = {_kind} {_kind}", np.bitwise_or)
    compute(f"xor.{_kind}", f"{_kind} = {_kind} {_kind}", np.bitwise_xor)
    compute(f"not.{_kind}", f"{_kind} = {_kind}", np.invert)
for _kind in ("b16", "b32", "b64"):
    compute(f"shl.{_kind}", f"{_kind} = {_kind} u32", shift_left)
compute("shf.l.wrap.b32", "b32 = b32 b32 u32", shift_pair_left)
for _kind in ("u16", "s16", "u32", "s32", "u64", "s64"):
    compute(f"shr.{_kind}", f"{_kind} = {_kind} u32", shift_right)

for _kind in ("b16", "b32", "b64"):
    define_comparisons("eq ne", _kind)
for _kind in ("u16", "s16", "u32", "s32", "u64", "s64"):
    define_comparisons("eq ne lt le gt ge", _kind)
for _kind in ("b16", "b32", "b64", "f32"):
    compute(f"selp.{_kind}", f"{_kind} = {_kind} {_kind} pred", lambda a, b, chosen: np.where(chosen, a, b))
