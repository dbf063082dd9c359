"""Compare each instruction that computes from registers with exact arithmetic on Python's numbers, on random bits."""

import math
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from tests.emulator.instructions import opcodes
from tests.emulator.snippets import Column, apply, random_bits, width

COUNT = 256
# The opcodes that move data or steer, which the other tests of this folder hold.
OTHERS = (
    *("mov.", "ld.", "st.", "cp.", "red.", "atom.", "bar.", "bra", "ret"),
    *("shfl.", "ldmatrix.", "stmatrix.", "mma.", "wgmma.", "fence."),
)


def extract(a: int, position: int, length: int, signed: bool) -> int:
    """Follow the definition of bfe in the manual of PTX, bit by bit."""
    bits = [a >> place & 1 for place in range(32)]
    position, length = position & 255, length & 255
    sign = bits[min(position + length - 1, 31)] if signed and length else 0
    picked = [bits[position + one] if one < length and position + one <= 31 else sign for one in range(32)]
    return sum(bit << place for place, bit in enumerate(picked))


def permute(a: int, b: int, selectors: int) -> int:
    """Follow the definition of prmt in the manual of PTX."""
    data = struct.pack("<II", a % 2**32, b % 2**32)
    total = 0
    for place in range(4):
        selector = selectors >> 4 * place & 15
        byte = data[selector & 7]
        total |= (byte if selector < 8 else 255 * (byte >> 7)) << 8 * place
    return total


def fused(a: float, b: float, c: float) -> float:
    """Compute a b + c, rounded once, then to float32."""
    if not all(map(math.isfinite, (a, b, c))):
        return float(np.float64(a) * b + c)
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    # A zero keeps the sign of its parts, which fractions do not have.
    return float(exact) if exact else float(np.float64(a) * b + c)


def larger(*values: float) -> float:
    """Return the largest number, or NaN where there is none. +0 is larger than -0."""
    return max(
        (one for one in values if not math.isnan(one)), key=lambda one: (one, math.copysign(1, one)), default=math.nan
    )


def larger_or_nan(*values: float) -> float:
    return math.nan if any(map(math.isnan, values)) else larger(*values)


def smaller(*values: float) -> float:
    return -larger(*(-one for one in values))


def smaller_or_nan(*values: float) -> float:
    return -larger_or_nan(*(-one for one in values))


def power_of_two(value: float) -> float:
    """Compute 2^x without subnormal numbers."""
    result = float(np.float32(np.exp2(np.float64(value))))
    return 0.0 if abs(result) < 2.0**-126 else result


Reference = Callable[..., Any]
COMPARISONS: dict[str, Reference] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b and not (math.isnan(a) or math.isnan(b)),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


def each(opcode: str, types: str, names: str, function: Reference) -> dict[tuple[str, str], Reference]:
    """Make a case of each type, whose name stands for `{t}`, and that of twice the width for `{w}`."""
    cases = {}
    for name in names.split():
        double = f"{name[0]}{2 * int(name[1:])}" if name != "pred" else ""
        cases[opcode.format(t=name), types.format(t=name, w=double)] = function
    return cases


# What each opcode computes, by its name and the types of the result and of the sources.
INTEGERS: dict[tuple[str, str], Reference] = {
    **each("add.{t}", "{t} {t} {t}", "s32 s64", lambda a, b: a + b),
    **each("sub.{t}", "{t} {t} {t}", "s32 s64", lambda a, b: a - b),
    **each("neg.{t}", "{t} {t}", "s32 s64", lambda a: -a),
    **each("abs.{t}", "{t} {t}", "s32 s64", abs),
    **each("mul.lo.{t}", "{t} {t} {t}", "s16 s32 s64", lambda a, b: a * b),
    **each("mad.lo.{t}", "{t} {t} {t} {t}", "s32 s64", lambda a, b, c: a * b + c),
    **each("mul.wide.{t}", "{w} {t} {t}", "u16 s16 u32 s32", lambda a, b: a * b),
    **each("mad.wide.{t}", "{w} {t} {t} {w}", "u16 s16 u32 s32", lambda a, b, c: a * b + c),
    **each("mul.hi.{t}", "{t} {t} {t}", "u16 s16", lambda a, b: a * b >> 16),
    **each("mul.hi.{t}", "{t} {t} {t}", "u32 s32", lambda a, b: a * b >> 32),
    **each("div.{t}", "{t} {t} {t}", "s32 u32", lambda a, b: math.trunc(Fraction(a, b))),
    **each("rem.{t}", "{t} {t} {t}", "s32 u32", lambda a, b: a - b * math.trunc(Fraction(a, b))),
    **each("min.{t}", "{t} {t} {t}", "s32 u32 s64 u64", min),
    **each("max.{t}", "{t} {t} {t}", "s32 u32 s64 u64", max),
    **each("and.{t}", "{t} {t} {t}", "pred b16 b32 b64", lambda a, b: a & b),
    **each("or.{t}", "{t} {t} {t}", "pred b16 b32 b64", lambda a, b: a | b),
    **each("xor.{t}", "{t} {t} {t}", "pred b16 b32 b64", lambda a, b: a ^ b),
    **each("not.{t}", "{t} {t}", "b16 b32 b64", lambda a: ~a),
    **each("not.{t}", "{t} {t}", "pred", lambda a: 1 - a),
    **each("shl.{t}", "{t} {t} u32", "b16 b32 b64", lambda a, b: a << min(b, 64)),
    # By the definition in the manual of PTX.
    **each("shf.l.wrap.{t}", "{t} {t} {t} u32", "b32", lambda a, b, c: (b << c % 32) | (a >> 32 - c % 32)),
    **each("shr.{t}", "{t} {t} u32", "u16 s16 u32 s32 u64 s64", lambda a, b: a >> min(b, 64)),
    **each("bfe.{t}", "{t} {t} u32 u32", "u32", lambda a, b, c: extract(a, b, c, False)),
    **each("bfe.{t}", "{t} {t} u32 u32", "s32", lambda a, b, c: extract(a, b, c, True)),
    **each("prmt.{t}", "{t} {t} {t} {t}", "b32", permute),
    **each("selp.{t}", "{t} {t} {t} pred", "b16 b32 b64", lambda a, b, chosen: a if chosen else b),
    **each("cvt.{t}.u32", "{t} u32", "u16 u64", lambda a: a),
    **each("cvt.u32.{t}", "u32 {t}", "u16 u64", lambda a: a),
    **each("cvt.s64.{t}", "s64 {t}", "s32", lambda a: a),
    **each("cvt.s32.{t}", "s32 {t}", "s16", lambda a: a),
    **each("cvt.s32.s8", "s32 {t}", "b32", lambda a: (a % 256 ^ 128) - 128),
}
for _name, _function in COMPARISONS.items():
    _types = "u16 s16 u32 s32 u64 s64" + " b16 b32 b64" * (_name in ("eq", "ne"))
    INTEGERS |= each(f"setp.{_name}.{{t}}", "pred {t} {t}", _types, _function)
FLOATS: dict[tuple[str, str], Reference] = {
    # The float64 of these, rounded to float32, is what one rounding would give.
    ("add.f32", "f32 f32 f32"): lambda a, b: np.float64(a) + b,
    ("sub.f32", "f32 f32 f32"): lambda a, b: np.float64(a) - b,
    ("mul.f32", "f32 f32 f32"): lambda a, b: np.float64(a) * b,
    ("div.full.f32", "f32 f32 f32"): lambda a, b: np.float64(a) / b,
    ("fma.rn.f32", "f32 f32 f32 f32"): fused,
    ("neg.f32", "f32 f32"): lambda a: -a,
    ("abs.f32", "f32 f32"): abs,
    ("ex2.approx.ftz.f32", "f32 f32"): power_of_two,
    ("max.f32", "f32 f32 f32"): larger,
    ("max.f32", "f32 f32 f32 f32"): larger,
    ("max.NaN.f32", "f32 f32 f32"): larger_or_nan,
    ("max.NaN.f32", "f32 f32 f32 f32"): larger_or_nan,
    ("min.f32", "f32 f32 f32"): smaller,
    ("min.f32", "f32 f32 f32 f32"): smaller,
    ("min.NaN.f32", "f32 f32 f32 f32"): smaller_or_nan,
    ("min.NaN.f32", "f32 f32 f32"): smaller_or_nan,
    ("selp.f32", "f32 f32 f32 pred"): lambda a, b, chosen: a if chosen else b,
    **{(f"setp.{name}.f32", "pred f32 f32"): function for name, function in COMPARISONS.items()},
}
PAIRS = {"add.f32x2": "add.f32", "sub.f32x2": "sub.f32", "mul.f32x2": "mul.f32", "fma.rn.f32x2": "fma.rn.f32"}
HALVES = {"f16": torch.float16, "bf16": torch.bfloat16}


def numbers(bits: Column, kind: str) -> list[Any]:
    """Return what the bits of a type stand for."""
    if kind == "f32":
        return [float(one) for one in bits.view(np.float32)]
    return [int(one) for one in (bits.view(f"i{bits.itemsize}") if kind[0] == "s" else bits)]


def draw(opcode: str, types: str) -> list[Column]:
    """Draw a column for each source. Nothing divides by zero."""
    columns = [random_bits(COUNT, kind, seed) for seed, kind in enumerate(types.split()[1:])]
    if opcode.startswith(("div.s", "div.u", "rem")):
        columns[1] |= columns[1] == 0
    return columns


def same_floats(got: Column, expected: Column) -> bool:
    """Compare float32 to the bit, apart from the bits of NaN."""
    either = np.isnan(expected.view(np.float32)) & np.isnan(got.view(np.float32))
    return bool((either | (got == expected)).all())


def expected_floats(opcode: str, types: str, columns: list[Column]) -> Column:
    """Compute the float32 that an opcode should give."""
    rows = zip(*(numbers(one, kind) for one, kind in zip(columns, types.split()[1:], strict=True)), strict=True)
    with np.errstate(all="ignore"):
        return np.array([FLOATS[opcode, types](*row) for row in rows], np.float32).view(np.uint32)


@pytest.mark.parametrize("opcode, types", INTEGERS)
def test_integers_and_predicates(opcode: str, types: str) -> None:
    result, *kinds = types.split()
    columns = draw(opcode, types)
    got = apply(opcode, types, columns)
    rows = zip(*(numbers(one, kind) for one, kind in zip(columns, kinds, strict=True)), strict=True)
    expected = [int(INTEGERS[opcode, types](*row)) % 2 ** int(width(result)) for row in rows]
    assert got.tolist() == expected


@pytest.mark.parametrize("opcode, types", FLOATS)
def test_floats(opcode: str, types: str) -> None:
    columns = draw(opcode, types)
    got = apply(opcode, types, columns)
    expected = expected_floats(opcode, types, columns)
    if types.startswith("pred"):
        assert np.array_equal(got, expected.view(np.float32))
    elif opcode.startswith("ex2"):
        np.testing.assert_allclose(got.view(np.float32), expected.view(np.float32), rtol=2e-7)
    else:
        assert same_floats(got, expected)


@pytest.mark.parametrize("opcode", PAIRS)
def test_pairs_of_floats(opcode: str) -> None:
    sources = 3 if opcode.startswith("fma") else 2
    words = [random_bits(2 * COUNT, "f32", seed) for seed in range(sources)]
    got = apply(opcode, " ".join(["b64"] * (sources + 1)), [one.view(np.uint64) for one in words])
    single = " ".join(["f32"] * (sources + 1))
    assert same_floats(got.view(np.uint32), expected_floats(PAIRS[opcode], single, words))


@pytest.mark.parametrize("name", HALVES)
def test_conversions_of_halves(name: str) -> None:
    bits = random_bits(COUNT, "f32", 0)
    value = torch.from_numpy(bits.view(np.float32)).to(HALVES[name])
    expected = value.view(torch.int16).numpy().view(np.uint16)
    finite = ~value.isnan().numpy()
    got = apply(f"cvt.rn.{name}.f32", "b16 f32", [bits])
    assert np.array_equal(got[finite], expected[finite]) and (got[~finite] == 0x7FFF).all()
    # The first source goes to the upper half.
    both = apply(f"cvt.rn.{name}x2.f32", "b32 f32 f32", [bits, bits[::-1].copy()])
    assert np.array_equal(both >> np.uint32(16), got) and np.array_equal(both.astype(np.uint16), got[::-1])
    halves = random_bits(COUNT, "b16", 1)
    wide = torch.from_numpy(halves.view(np.int16)).view(HALVES[name]).float().numpy()
    assert same_floats(apply(f"cvt.f32.{name}", "f32 b16", [halves]), wide.view(np.uint32))


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("opcode", ["add", "sub", "fma"])
def test_sums_of_halves_and_float32(opcode: str, name: str) -> None:
    halves = [random_bits(COUNT, "b16", seed) for seed in range(2 if opcode == "fma" else 1)]
    third = random_bits(COUNT, "f32", 2)
    wide = [torch.from_numpy(one.view(np.int16)).view(HALVES[name]).float().numpy().view(np.uint32) for one in halves]
    got = apply(f"{opcode}.rn.f32.{name}", " ".join(["f32", *["b16"] * len(halves), "f32"]), [*halves, third])
    # Widened, a half is the same number: the instruction on float32 alone gives the same.
    single = "fma.rn.f32" if opcode == "fma" else f"{opcode}.f32"
    expected = expected_floats(single, " ".join(["f32"] * (len(halves) + 2)), [*wide, third])
    assert same_floats(got, expected)


def test_every_computation_is_compared() -> None:
    converted = {f"cvt.rn.{name}{pair}.f32" for name in HALVES for pair in ("", "x2")}
    compared = {opcode for opcode, _ in (*INTEGERS, *FLOATS)} | PAIRS.keys() | converted
    compared |= {f"{opcode}.f32.{name}" for name in HALVES for opcode in ("cvt", "add.rn", "sub.rn", "fma.rn")}
    assert {one for one in opcodes() if not one.startswith(OTHERS)} == compared
