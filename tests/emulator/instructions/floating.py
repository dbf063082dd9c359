"""List the instructions on float32.

The fused multiply-add rounds a float64 sum, so in rare cases it is one unit in the last place off. What a GPU
approximates (division, exponential) is computed with float32's own accuracy.
"""

from collections.abc import Callable
from functools import reduce

import numpy as np

from tests.emulator.instructions.conversion import WIDENED
from tests.emulator.instructions.integer import define_comparisons
from tests.emulator.instructions.table import compute
from tests.emulator.machine import Array

TINY = np.finfo(np.float32).tiny


def flush(value: Array) -> Array:
    """Replace subnormal values by zeros of their sign."""
    return np.where(np.abs(value) < TINY, np.copysign(np.float32(0), value), value)


def exponentiate(value: Array) -> Array:
    """Compute 2^x without subnormal numbers."""
    return flush(np.exp2(flush(value)))


def fuse(a: Array, b: Array, c: Array) -> Array:
    """Compute a b + c with one rounding: the product of two float32 is exact in float64."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def widened(function: Callable[..., Array], widen: Callable[[Array], Array]) -> Callable[..., Array]:
    """Apply a function of float32 to halves, and to a float32 as the last."""
    return lambda *values: function(*map(widen, values[:-1]), values[-1])


def extreme(choose: Callable[..., Array], zero: Callable[..., Array]) -> Callable[..., Array]:
    """Make a maximum or minimum of values, where `zero` combines the signs of +0 and -0."""

    def pick(a: Array, b: Array) -> Array:
        signs = zero(a.view(np.uint32), b.view(np.uint32)).view(np.float32)
        return np.where(a == b, signs, choose(a, b))

    return lambda *values: reduce(pick, values)


def unpack(pair: Array) -> tuple[Array, Array]:
    """Return the lower and the upper float32 of 64 bits."""
    low, high = (pair & np.uint64(0xFFFFFFFF)), pair >> np.uint64(32)
    return low.astype(np.uint32).view(np.float32), high.astype(np.uint32).view(np.float32)


def pack(low: Array, high: Array) -> Array:
    """Return 64 bits of two float32."""
    bits = [np.ascontiguousarray(one).view(np.uint32).astype(np.uint64) for one in (low, high)]
    return bits[0] | bits[1] << np.uint64(32)


def by_pair(function: Callable[..., Array]) -> Callable[..., Array]:
    """Apply a function of float32 to both values of pairs."""

    def apply(*pairs: Array) -> Array:
        lows, highs = zip(*map(unpack, pairs), strict=True)
        return pack(function(*lows), function(*highs))

    return apply


compute("add.f32", "f32 = f32 f32", np.add)
compute("sub.f32", "f32 = f32 f32", np.subtract)
compute("mul.f32", "f32 = f32 f32", np.multiply)
compute("neg.f32", "f32 = f32", np.negative)
compute("abs.f32", "f32 = f32", np.abs)
compute("div.full.f32", "f32 = f32 f32", np.divide)
compute("fma.rn.f32", "f32 = f32 f32 f32", fuse)
compute("ex2.approx.ftz.f32", "f32 = f32", exponentiate)
# Without NaN in the opcode, a number wins over NaN.
for _opcode, _function in (
    ("max.f32", extreme(np.fmax, np.bitwise_and)),
    ("min.f32", extreme(np.fmin, np.bitwise_or)),
    ("max.NaN.f32", extreme(np.maximum, np.bitwise_and)),
    ("min.NaN.f32", extreme(np.minimum, np.bitwise_or)),
):
    compute(_opcode, "f32 = f32 f32", _function)
    compute(_opcode, "f32 = f32 f32 f32", _function)
define_comparisons("eq lt le gt ge", "f32")
# NaN compares as false with everything: only `neu` would be true.
compute("setp.ne.f32", "pred = f32 f32", lambda a, b: (a < b) | (a > b))

for _name, _operation in (("add", np.add), ("sub", np.subtract), ("mul", np.multiply)):
    compute(f"{_name}.f32x2", "b64 = b64 b64", by_pair(_operation))
compute("fma.rn.f32x2", "b64 = b64 b64 b64", by_pair(fuse))
# From PTX 8.6 on, a half is widened, which changes no number, and the sum is rounded once.
for _half, _widen in WIDENED.items():
    compute(f"add.rn.f32.{_half}", "f32 = b16 f32", widened(np.add, _widen))
    compute(f"sub.rn.f32.{_half}", "f32 = b16 f32", widened(np.subtract, _widen))
    compute(f"fma.rn.f32.{_half}", "f32 = b16 b16 f32", widened(fuse, _widen))
