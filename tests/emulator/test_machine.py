"""Hold fragments, exchanges, memory, barriers and refusals to the manual of PTX, written here once more."""

import re

import numpy as np
import pytest
import torch

from tests.emulator.errors import AccessError, EmulatorError, UndefinedError, UnknownFormError
from tests.emulator.parser import parse
from tests.emulator.snippets import module, run

THREAD_WORD = "mul.wide.u32 %rd80, %r90, 4;\nadd.s64 %rd81, %rd90, %rd80;\nadd.s64 %rd82, %rd91, %rd80;\n"


def words(*shape: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint32]]":
    """Draw random words."""
    return np.random.default_rng(0).integers(0, 2**32, shape, np.uint32, endpoint=False)


@pytest.mark.parametrize("name, dtype", [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_matrix_product(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b, c = torch.randn(16, 16).to(dtype), torch.randn(16, 8).to(dtype), torch.randn(16, 8)
    left, right, start = np.zeros((32, 8), np.int16), np.zeros((32, 4), np.int16), np.zeros((32, 4), np.float32)
    a_bits, b_bits = a.view(torch.int16).numpy(), b.view(torch.int16).numpy()
    for lane in range(32):
        group, pair = lane // 4, lane % 4
        for i in range(8):
            row, column = group + (8 if i % 4 >= 2 else 0), pair * 2 + i % 2 + (8 if i >= 4 else 0)
            left[lane, i] = a_bits[row, column]
        for i in range(4):
            right[lane, i] = b_bits[pair * 2 + i % 2 + (8 if i >= 2 else 0), group]
            start[lane, i] = c[group + (8 if i >= 2 else 0), pair * 2 + i % 2]
    out = np.zeros((32, 4), np.float32)
    run(
        f"""mul.wide.u32 %rd80, %r90, 16;
        mul.wide.u32 %rd81, %r90, 8;
        add.s64 %rd1, %rd90, %rd80;
        add.s64 %rd2, %rd91, %rd80;
        add.s64 %rd3, %rd92, %rd81;
        add.s64 %rd4, %rd93, %rd80;
        ld.global.v4.b32 {{%r1, %r2, %r3, %r4}}, [%rd2];
        ld.global.v2.b32 {{%r5, %r6}}, [%rd3];
        ld.global.v4.b32 {{%r7, %r8, %r9, %r10}}, [%rd4];
        mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32
            {{%r11, %r12, %r13, %r14}}, {{%r1, %r2, %r3, %r4}}, {{%r5, %r6}}, {{%r7, %r8, %r9, %r10}};
        st.global.v4.b32 [%rd1], {{%r11, %r12, %r13, %r14}};""".replace("f32\n            ", "f32 "),
        *(out, left, right, start),
    )
    expected = a.double() @ b.double() + c
    for lane in range(32):
        for i in range(4):
            row, column = lane // 4 + (8 if i >= 2 else 0), lane % 4 * 2 + i % 2
            assert abs(out[lane, i] - expected[row, column]) < 1e-5


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_of_shared_memory(count: int, transposed: bool) -> None:
    # Each lane stores a row of 16 bytes, the rows in an order of their own, before matrices are read from there.
    data, out, back = words(32, 4), np.zeros((32, count), np.uint32), np.zeros((32, 4), np.uint32)
    form = f"sync.aligned.m8n8.x{count}{'.trans' if transposed else ''}.shared.b16"
    registers = ", ".join(f"%r{one}" for one in range(11, 11 + count))
    run(
        f"""mul.wide.u32 %rd80, %r90, 16;
        mul.wide.u32 %rd81, %r90, {4 * count};
        add.s64 %rd1, %rd90, %rd81;
        add.s64 %rd2, %rd91, %rd80;
        add.s64 %rd3, %rd92, %rd80;
        xor.b32 %r20, %r90, 5;
        shl.b32 %r21, %r20, 4;
        ld.global.v4.b32 {{%r1, %r2, %r3, %r4}}, [%rd2];
        st.shared.v4.b32 [%r21], {{%r1, %r2, %r3, %r4}};
        bar.warp.sync -1;
        ldmatrix.{form} {{{registers}}}, [%r21];
        st.global.{f"v{count}." if count > 1 else ""}b32 [%rd1], {{{registers}}};
        mov.b32 %r30, 0;
        st.shared.v4.b32 [%r21+512], {{%r30, %r30, %r30, %r30}};
        bar.warp.sync -1;
        add.s32 %r22, %r21, 512;
        stmatrix.{form} [%r22], {{{registers}}};
        bar.warp.sync -1;
        ld.shared.v4.b32 {{%r1, %r2, %r3, %r4}}, [%r22];
        st.global.v4.b32 [%rd3], {{%r1, %r2, %r3, %r4}};""",
        *(out, data, back),
        shared_bytes=1024,
    )
    matrices = data.view(np.uint16).reshape(4, 8, 8)
    for lane in range(32):
        row, column = lane // 4, lane % 4 * 2
        for one in range(count):
            matrix = matrices[one].T if transposed else matrices[one]
            assert out[lane, one] == int(matrix[row, column]) + (int(matrix[row, column + 1]) << 16)
    # What was loaded has been stored at the same rows.
    assert np.array_equal(back[: 8 * count], data[: 8 * count]) and not back[8 * count :].any()


def test_shuffles() -> None:
    value, out, lane = words(64), np.zeros(64, np.uint32), words(64)
    run(
        THREAD_WORD
        + """mul.wide.u32 %rd83, %r90, 4;
        add.s64 %rd83, %rd92, %rd83;
        ld.global.b32 %r1, [%rd82];
        ld.global.b32 %r2, [%rd83];
        shfl.sync.bfly.b32 %r3, %r1, 5, 31, -1;
        shfl.sync.idx.b32 %r4, %r3, %r2, 31, -1;
        st.global.b32 [%rd81], %r4;""",
        *(out, value, lane),
        threads=64,
    )
    for thread in range(64):
        source = thread // 32 * 32 + int(lane[thread]) % 32
        assert out[thread] == value[source ^ 5]


def test_moves_between_widths() -> None:
    value, out = words(32), np.zeros(32, np.uint32)
    run(
        THREAD_WORD
        + """ld.global.b32 %r1, [%rd82];
        mov.b32 {%rs1, %rs2}, %r1;
        mov.b32 %r2, {%rs2, %rs1};
        mov.b64 %rd1, {%r2, %r1};
        mov.b64 {_, %r3}, %rd1;
        mov.b64 {%r4, _}, %rd1;
        xor.b32 %r5, %r3, %r4;
        st.global.b32 [%rd81], %r5;""",
        *(out, value),
    )
    assert np.array_equal(out, value ^ (value << 16 | value >> 16))


def test_additions_to_one_place_all_count() -> None:
    total, value = np.zeros(4, np.float32), np.arange(64, dtype=np.float32)
    run(
        THREAD_WORD
        + """ld.global.b32 %r1, [%rd82];
        red.global.gpu.relaxed.add.f32 [%rd90+4], %r1;
        setp.lt.u32 %p1, %r90, 2;
        @%p1 red.global.gpu.relaxed.add.v2.f32 [%rd90+8], {%r1, %r1};
        atom.global.gpu.relaxed.add.f32 %r2, [%rd90], %r1;""",
        *(total, value),
        threads=64,
    )
    assert total.tolist() == [63 * 32, 63 * 32, 1, 1]


COPY = """mul.wide.u32 %rd80, %r90, 16;
add.s64 %rd81, %rd90, %rd80;
add.s64 %rd82, %rd91, %rd80;
shl.b32 %r1, %r90, 4;
setp.lt.u32 %p1, %r90, 40;
selp.b32 %r2, 16, 0, %p1;
cp.async.cg.shared.global [%r1], [%rd82], 16, %r2;
cp.async.commit_group;
cp.async.wait_group 0;
bar.sync 0;
xor.b32 %r3, %r1, 512;
ld.shared.v4.b32 {%r4, %r5, %r6, %r7}, [%r3];
st.global.v4.b32 [%rd81], {%r4, %r5, %r6, %r7};"""


def test_asynchronous_copies_arrive_at_the_wait() -> None:
    source, out = words(64, 4), np.zeros((64, 4), np.uint32)
    assert run(COPY, out, source, threads=64, shared_bytes=1024).races == 0
    expected = np.where(np.arange(64)[:, None] < 40, source, 0)
    assert np.array_equal(out, np.roll(expected, 32, axis=0))


@pytest.mark.parametrize("removed", ["cp.async.wait_group 0;", "bar.sync 0;"])
def test_a_copy_that_nothing_waits_for_is_a_race(removed: str) -> None:
    source, out = words(64, 4), np.zeros((64, 4), np.uint32)
    assert run(COPY.replace(removed, ""), out, source, threads=64, shared_bytes=1024).races > 0


@pytest.mark.parametrize(
    "distance, barrier, raced",
    [
        (4, "", True),
        (4, "bar.warp.sync -1;", False),
        (128, "bar.warp.sync -1;", True),
        (128, "bar.sync 0;", False),
        (0, "", False),
    ],
)
def test_threads_that_share_a_word_need_a_barrier(distance: int, barrier: str, raced: bool) -> None:
    write, read = "st.shared.b32 [%r1], %r90;", "ld.shared.b32 %r3, [%r2];"
    address = f"shl.b32 %r1, %r90, 2;\nxor.b32 %r2, %r1, {distance};\n"
    unused = np.zeros(4, np.uint32)
    assert bool(run(f"{address}{write}\n{barrier}\n{read}", unused, threads=64, shared_bytes=256).races) == raced
    # And a word that is read first, then written by another thread.
    fill = f"{write}\nbar.sync 0;\n"
    assert bool(run(f"{address}{fill}{read}\n{barrier}\n{write}", unused, threads=64, shared_bytes=256).races) == raced


def test_threads_may_store_one_value_together() -> None:
    unused = np.zeros(4, np.uint32)
    assert run("mov.b32 %r1, 0;\nst.shared.b32 [%r1], %r1;", unused, shared_bytes=16).races == 0
    assert run("mov.b32 %r1, 0;\nst.shared.b32 [%r1], %r90;", unused, shared_bytes=16).races > 0
    # Global memory is not: nothing orders blocks.
    assert run("st.global.b32 [%rd90], %r90;", unused, threads=1).races == 0
    assert run("st.global.b32 [%rd90], %r90;", unused, threads=1, blocks=2).races > 0
    assert run("ld.global.b32 %r1, [%rd90];\nst.global.b32 [%rd90], %r1;", unused, threads=1).races > 0


def test_numbers_are_stored_in_a_row() -> None:
    out = np.zeros(6, np.uint32)
    run(
        """mov.b32 %r1, 16;
        st.shared.v2.b32 [%r1], {1, 2};
        st.shared.v4.b32 [%r1+16], {3, 4, 5, 6};
        ld.shared.v2.b32 {%r2, %r3}, [%r1];
        ld.shared.v2.b32 {%r4, %r5}, [%r1+24];
        st.global.v4.b32 [%rd90], {%r2, %r3, %r4, %r5};
        st.shared.v2.b32 [%r1], {0f3F800000, 0fC0000000};
        ld.shared.v2.b32 {%r2, %r3}, [%r1];
        st.global.v2.b32 [%rd90+16], {%r2, %r3};""",
        out,
        threads=1,
        shared_bytes=48,
    )
    assert out[:4].tolist() == [1, 2, 5, 6]
    assert out[4:].view(np.float32).tolist() == [1.0, -2.0]


def test_blocks_part_at_a_branch_and_go_on_alone() -> None:
    out = np.zeros(6, np.uint32)
    # Block b counts to b.
    run(
        """mov.u32 %r1, %ctaid.x;
        mov.b32 %r2, 0;
        $L__BB0_1:
        setp.ge.s32 %p1, %r2, %r1;
        @%p1 bra $L__BB0_2;
        add.s32 %r2, %r2, 1;
        bra.uni $L__BB0_1;
        $L__BB0_2:
        mul.wide.u32 %rd1, %r1, 4;
        add.s64 %rd2, %rd90, %rd1;
        st.global.b32 [%rd2], %r2;""",
        *(out,),
        threads=1,
        blocks=6,
    )
    assert out.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "line",
    [
        "mul.hi.s64 %rd1, %rd90, %rd90;",
        "add.f32.rz %r1, %r90, %r90;",
        "add.rz.f32 %r1, %r90, %r90;",
        "add.s32 %r1, %r90;",
        "add.s32 %r1, %r90, %r90, %r90;",
        "add.s32 %rd1, %rd90, %rd90;",
        "add.f32 %r1, %r90, 1;",
        "add.s32 %r1, %r90, 4294967296;",
        "mov.b32 %r1, some_symbol;",
        "mov.b32 %r1, %laneid;",
        "ld.global.v8.b32 {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}, [%rd90];",
        "ld.global.nc.b32 %r1, [%rd90];",
        "ld.global.b32 %r1, [%r90];",
        "ld.param.b32 %r1, [kernel_param_0];",
        "ld.param.b64 %rd1, [kernel_param_0+8];",
        "shfl.sync.bfly.b32 %r1, %r90, 1, 15, -1;",
        "bar.sync 1;",
        "bar.sync 0, 64;",
        "bar.warp.sync 15;",
        "cp.async.cg.shared.global [%r90], [%rd90], 8;",
        ".local .b8 stack[16];",
        "{ .reg .b32 %r1; }",
        "setp.lt.s32 %p1, %r90, 3;\n@%p1 ret;",
        "setp.lt.s32 %p1, %r90, 3;\n@%p1 bra $L__BB0_1;\n$L__BB0_1:",
    ],
)
def test_unknown_forms_are_refused_with_their_line(line: str) -> None:
    with pytest.raises(UnknownFormError, match=r"line \d+: ") as caught:
        run(line, np.zeros(4, np.uint32), shared_bytes=64)
    text = re.sub(r".*line \d+: ", "", str(caught.value))
    assert text in line


def test_a_module_of_several_kernels_is_refused() -> None:
    with pytest.raises(UnknownFormError, match="must hold one kernel and no function, found 2 kernels"):
        parse(module("", 1, 32) + module("", 1, 32))


@pytest.mark.parametrize(
    "line, error, message",
    [
        ("ld.global.b32 %r1, [%rd90+16];", AccessError, "32 accesses outside of every buffer"),
        ("ld.global.b32 %r1, [%rd90+-4];", AccessError, "outside of every buffer"),
        ("ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd90+4];", AccessError, "outside of every buffer"),
        ("ld.global.b32 %r1, [%rd90+2];", AccessError, "no multiple of the 4 bytes"),
        ("st.shared.b32 [%r90+61], %r90;", AccessError, "an access of 4 bytes at 92 in 64 bytes of shared memory"),
        ("mov.b32 %r1, 2;\nld.shared.b32 %r2, [%r1];", AccessError, "no multiple of the 4 bytes"),
        ("add.s32 %r1, %r2, 1;", UndefinedError, "a read of %r2, which nothing has written"),
        ("mov.b32 %r1, 0;\ndiv.s32 %r2, %r90, %r1;", UndefinedError, "a division by zero"),
    ],
)
def test_faults_stop_with_their_line(line: str, error: type[EmulatorError], message: str) -> None:
    with pytest.raises(error, match=rf"{message}.*, in kernel, line \d+: "):
        run(line, np.zeros(4, np.uint32), shared_bytes=64)
