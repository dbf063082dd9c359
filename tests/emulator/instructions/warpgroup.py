"""List the matrix products of a warp group, four warps, whose operands lie in shared memory behind descriptors.

They run asynchronously on hardware. Here results are there at once, so a register that is read before the wait is not
noticed, but shared memory that changes before it is.
"""

from collections.abc import Callable

import numpy as np

from tests.emulator.errors import UnknownFormError
from tests.emulator.instructions.control import for_all
from tests.emulator.instructions.matrix import from_bfloat16, from_float16
from tests.emulator.instructions.table import define
from tests.emulator.machine import Array, Handler, Machine, Mask
from tests.emulator.parser import Operand

SPANS = (16, 128, 64, 32)  # bytes of a row of eight, by the descriptor's kind of swizzle


def fragments(machine: Machine, operand: Operand) -> Array:
    """Return registers as (blocks, groups, 4 warps, 8 rows, 4 pairs, registers)."""
    values = [machine.full(machine.piece(one)) for one in operand.items]
    return np.stack(values, -1).reshape(machine.blocks, -1, 4, 8, 4, len(values))


def chunk_offsets(rows: int, transposed: bool, leading: Array, stride: Array, span: int) -> Array:
    """Return the offsets of the chunks of eight halves that hold `rows` rows of 16.

    A row has two chunks. Where the matrix is transposed, chunks go along the rows: each of the 16 columns has one for
    every eight rows. `leading` and `stride` are the descriptor's two distances, a value for each group.
    """
    across, half, row = span // 16, np.arange(2), np.arange(rows)[:, None]
    column, chunk = np.arange(16), np.arange(rows // 8)[:, None]
    offsets: Array
    if transposed and span == 16:
        offsets = column % 8 * 16 + column // 8 * leading + chunk * stride
    elif transposed:
        offsets = column % 8 * span + column // 8 * stride + chunk % across * 16 + chunk // across * leading
    else:
        offsets = row % 8 * span + row // 8 * stride + half * (leading if span == 16 else 16)
    return offsets


def load(machine: Machine, operand: Operand, rows: int, transposed: bool) -> Array:
    """Return (blocks, groups, rows, 16) halves that a descriptor describes."""
    described = machine.full(machine.read(operand, np.uint64)).reshape(machine.blocks, -1, 128)
    value = described[..., 0].astype(np.uint64)
    kinds = np.unique(value >> np.uint64(62))
    if (described != value[..., None]).any() or len(kinds) > 1 or (value >> np.uint64(49) & np.uint64(7)).any():
        raise UnknownFormError("a descriptor that differs within a group, between blocks, or has an offset")
    # Addresses and distances are in units of 16 bytes.
    start, leading, stride = ((value >> np.uint64(at) & np.uint64(0x3FFF)).astype(np.int64) * 16 for at in (0, 16, 32))
    span = SPANS[int(kinds[0])]
    offsets = chunk_offsets(rows, transposed, leading[..., None, None], stride[..., None, None], span)
    addresses = start[..., None, None] + offsets
    # The swizzle spreads the chunks of eight rows over all banks.
    addresses = (addresses ^ (addresses >> 7 & span // 16 - 1) << 4).reshape(machine.blocks, -1)
    machine.reads[-1].append(addresses)
    halves = machine.shared.gather(addresses).view(np.uint16)
    if transposed:
        return halves.reshape(*value.shape, rows // 8, 16, 8).swapaxes(3, 4).reshape(*value.shape, rows, 16)
    return halves.reshape(*value.shape, rows, 16)


def multiply(columns: int, widen: Callable[[Array], Array]) -> Handler:
    """Make the product of 64x16 and 16x`columns` halves that is added to float32, or replaces it."""

    def execute(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
        for_all(mask)
        *_, scale_a, scale_b = (one.value for one in operands[:6])
        if (scale_a, scale_b) != (1, 1):
            raise UnknownFormError("a product with a sign")
        if operands[1].items:
            # (warp, row, pair, right half, lower half, place) to [(warp, lower half, row), (right half, pair, place)]
            left = fragments(machine, operands[1]).view(np.uint16)
            left = left.reshape(*left.shape[:5], 2, 2, 2).transpose(0, 1, 2, 6, 3, 5, 4, 7)
            left = left.reshape(*left.shape[:2], 64, 16)
        else:
            left = load(machine, operands[1], 64, bool(operands[6].value))
        right = load(machine, operands[2], columns, bool(operands[-1].value))
        # (warp, row, pair, eight columns, lower half, place) to [(warp, lower half, row), (eight columns, pair, place)]
        start = fragments(machine, operands[0]).view(np.float32)
        warps = start.shape[:2]
        start = start.reshape(*start.shape[:5], -1, 2, 2).transpose(0, 1, 2, 6, 3, 5, 4, 7).reshape(*warps, 64, -1)
        added = machine.full(machine.read(operands[3], np.bool_)).reshape(*warps, 128)[..., :1, None]
        product = widen(left) @ widen(right).swapaxes(2, 3) + np.where(added, start, np.float32(0))
        result = product.reshape(*warps, 4, 2, 8, -1, 4, 2).transpose(0, 1, 2, 4, 6, 5, 3, 7)
        result = result.reshape(machine.blocks, machine.threads, -1)
        for place, item in enumerate(operands[0].items):
            machine.write(item, np.ascontiguousarray(result[..., place]), None)

    return execute


def commit(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Close the open group of products."""
    for_all(mask)
    machine.reads.append([])


def wait(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Let all closed groups end but the newest ones. Until now they may have read shared memory."""
    for_all(mask)
    while len(machine.reads) - 1 > operands[0].value:
        for addresses in machine.reads.pop(0):
            machine.shared.gather(addresses)


def fence(machine: Machine, operands: tuple[Operand, ...], mask: Mask | None) -> None:
    """Let products see what threads have written."""
    for_all(mask)
    machine.shared.races.fence()


for _columns in (8, 16, 32, 64, 128, 256):
    _target = "{" + ",".join(["r"] * (_columns // 2)) + "}"
    for _type, _widen in (("f16", from_float16), ("bf16", from_bfloat16)):
        _opcode = f"wgmma.mma_async.sync.aligned.m64n{_columns}k16.f32.{_type}.{_type}"
        define(_opcode, f"{_target} rd rd p|n n n n n", multiply(_columns, _widen))
        define(_opcode, f"{_target} {{r,r,r,r}} rd p|n n n n", multiply(_columns, _widen))
# Orders registers, which are never late here.
define("wgmma.fence.sync.aligned", "", lambda machine, operands, mask: for_all(mask))
define("wgmma.commit_group.sync.aligned", "", commit)
define("wgmma.wait_group.sync.aligned", "n", wait)
define("fence.proxy.async.shared::cta", "", fence)
