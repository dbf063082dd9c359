"""Hold the products of warp groups to a matrix product, with the layouts of shared memory written here once more."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.emulator.snippets import run

# The descriptor's number of a swizzle, by the bytes of the rows that it spreads.
KINDS = {16: 0, 128: 1, 64: 2, 32: 3}
ROOM = 8192  # bytes of shared memory for each of the two matrices
TARGET = "{" + ", ".join(f"%r{10 + index}" for index in range(32)) + "}"
PRODUCT = "wgmma.mma_async.sync.aligned.m64n64k16.f32"
FENCE, BARRIER, WAIT = (
    *("fence.proxy.async.shared::cta;", "bar.sync 0;"),
    "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;",
)
# All threads copy both matrices from global to shared memory.
VALUES = "{%r2, %r3, %r4, %r5}"
STAGE = "mul.wide.u32 %rd80, %r90, 16;\nadd.s64 %rd81, %rd91, %rd80;\nshl.b32 %r1, %r90, 4;\n" + "\n".join(
    f"ld.global.v4.b32 {VALUES}, [%rd81+{offset}];\nst.shared.v4.b32 [%r1+{offset}], {VALUES};"
    for offset in range(0, 2 * ROOM, 2048)
)
STORE = "mul.wide.u32 %rd80, %r90, 128;\nadd.s64 %rd81, %rd90, %rd80;\n" + "\n".join(
    f"st.global.v4.b32 [%rd81+{4 * place}], {{%r{10 + place}, %r{11 + place}, %r{12 + place}, %r{13 + place}}};"
    for place in range(0, 32, 4)
)


def steps(span: int, transposed: bool) -> tuple[int, int]:
    """Return the leading and the stride distance of a dense layout of 64 rows of 16 halves."""
    if span == 16:
        return 1024, 128
    # Transposed, pieces of span / 2 rows and eight columns lie behind each other, first those of the same columns.
    return (8 * span, 1024) if transposed else (0, 8 * span)


def address(row: int, column: int, span: int, transposed: bool) -> int:
    """Return the byte of an element, as in CUTLASS' canonical layouts."""
    leading, stride = steps(span, transposed)
    if span == 16:
        inner = column % 8 * 16 + row % 8 * 2 if transposed else row % 8 * 16 + column % 8 * 2
        return inner + row // 8 * stride + column // 8 * leading
    if transposed:
        wide = span // 2
        place = row % wide * 2 + column % 8 * span + row // wide * leading + column // 8 * stride
    else:
        place = row % 8 * span + column * 2 + row // 8 * stride
    # Bits 4 and up are exclusive-ored with as many bits from 7 on.
    return place ^ (place // 128 % (span // 16)) * 16


def lay_out(matrix: Tensor, span: int, transposed: bool) -> npt.NDArray[np.int16]:
    """Return the shared memory of a matrix of 64 rows of 16."""
    bits, memory = matrix.view(torch.int16).numpy(), np.zeros(ROOM // 2, np.int16)
    for row in range(64):
        for column in range(16):
            memory[address(row, column, span, transposed) // 2] = bits[row, column]
    return memory


def descriptor(start: int, span: int, transposed: bool) -> int:
    """Describe a matrix at an address."""
    leading, stride = steps(span, transposed)
    return start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | KINDS[span] << 62


def draw(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Draw two matrices of 64 rows of 16."""
    torch.manual_seed(0)
    return torch.randn(64, 16).to(dtype), torch.randn(64, 16).to(dtype)


def from_shared(span: int, transposed: bool) -> str:
    """Return the product of both matrices in shared memory, which replaces what was before."""
    left, right = descriptor(0, span, transposed), descriptor(ROOM, span, transposed)
    turned = int(transposed)
    return (
        f"mov.b64 %rd1, {left};\nmov.b64 %rd2, {right};\n"
        f"{PRODUCT}.f16.f16 {TARGET}, %rd1, %rd2, 0, 1, 1, {turned}, {turned};"
    )


def check(out: npt.NDArray[Any], expected: Tensor) -> None:
    """Compare the registers of all threads with a 64x64 matrix."""
    for thread in range(128):
        for place in range(32):
            row = thread // 32 * 16 + thread % 32 // 4 + (8 if place % 4 >= 2 else 0)
            column = place // 4 * 8 + thread % 4 * 2 + place % 2
            assert abs(out[thread, place] - expected[row, column]) < 1e-5


def launch(lines: list[str], *columns: npt.NDArray[Any]) -> int:
    """Run the lines with a warp group and return the number of races."""
    return run("\n".join(lines), *columns, threads=128, shared_bytes=2 * ROOM).races


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("span", KINDS)
def test_both_matrices_in_shared_memory(span: int, transposed: bool) -> None:
    a, b = draw(torch.float16)
    image = np.concatenate([lay_out(one, span, transposed) for one in (a, b)])
    out = np.zeros((128, 32), np.float32)
    assert launch([STAGE, FENCE, BARRIER, from_shared(span, transposed), WAIT, STORE], out, image) == 0
    check(out, a.double() @ b.double().T)


def test_left_matrix_in_registers_and_a_sum() -> None:
    a, b = draw(torch.bfloat16)
    image, out = np.concatenate([lay_out(b, 32, False)] * 2), np.zeros((128, 32), np.float32)
    bits, left = a.view(torch.int16).numpy(), np.zeros((128, 8), np.int16)
    for thread in range(128):
        for half in range(8):
            row = thread // 32 * 16 + thread % 32 // 4 + (8 if half % 4 >= 2 else 0)
            left[thread, half] = bits[row, thread % 4 * 2 + half % 2 + (8 if half >= 4 else 0)]
    registers = "{%r50, %r51, %r52, %r53}"
    lines = [
        *(STAGE, FENCE, BARRIER, "mul.wide.u32 %rd80, %r90, 16;", "add.s64 %rd3, %rd92, %rd80;"),
        f"ld.global.v4.b32 {registers}, [%rd3];",
        *(f"mov.b32 %r{10 + place}, 0f3F800000;" for place in range(32)),
        *("setp.lt.u32 %p1, %r90, 128;", f"mov.b64 %rd2, {descriptor(ROOM, 32, False)};"),
        f"{PRODUCT}.bf16.bf16 {TARGET}, {registers}, %rd2, %p1, 1, 1, 0;",
        *(WAIT, STORE),
    ]
    assert launch(lines, out, image, left) == 0
    check(out, a.double() @ b.double().T + 1)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([STAGE, BARRIER, "PRODUCT", WAIT], id="no fence"),
        pytest.param([STAGE, FENCE, "PRODUCT", WAIT], id="no barrier"),
        pytest.param([STAGE, FENCE, BARRIER, "PRODUCT", BARRIER, "st.shared.b32 [%r1], %r90;", WAIT], id="no wait"),
    ],
)
def test_shared_memory_that_changes_under_a_product_is_a_race(lines: list[str]) -> None:
    image, out = np.zeros(ROOM, np.int16), np.zeros(4, np.float32)
    assert launch([from_shared(32, False) if one == "PRODUCT" else one for one in lines], out, image) > 0
