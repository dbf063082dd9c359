"""Share the index arithmetic of the forward and the backward attention kernels.

A program owns BLOCK_M tokens of one window and one head: queries, or keys in the kernel of dk and dv. It streams the
other side of the same window in tiles of BLOCK_N slots. A tile is BLOCK_N / PADDED window rows, each padded to PADDED
slots. PADDED is a power of two, so that the row and the column of a slot are bit operations and never a division.
"""

# mypy: ignore-errors
# Functions of the Triton language are compiled, not called: their arguments have no Python types.

import triton
import triton.language as tl


@triton.jit
def locate(num_heads, height, width, WINDOW: tl.constexpr, BLOCK_M: tl.constexpr):
    """Return this program's (block of tokens, head, image, window row, window column)."""
    BLOCKS: tl.constexpr = (WINDOW * WINDOW + BLOCK_M - 1) // BLOCK_M
    # Blocks of one window and head are neighbours in the grid: they read the same keys and values.
    program = tl.program_id(0)
    window = program // BLOCKS // num_heads
    columns = width // WINDOW
    rows = height // WINDOW
    return (
        program % BLOCKS,
        program // BLOCKS % num_heads,
        window // columns // rows,
        window // columns % rows,
        window % columns,
    )


@triton.jit
def pixels(y, x, height, width, shift, SHIFTED: tl.constexpr):
    """Return the pixel index of the token at (y, x) of the cyclically shifted map."""
    if SHIFTED:
        # The shift is below the map's size, so one subtraction replaces the remainder of a division.
        y += shift
        x += shift
        y = tl.where(y >= height, y - height, y)
        x = tl.where(x >= width, x - width, x)
    return y * width + x


@triton.jit
def owned_pixels(
    block, window_y, window_x, height, width, shift,
    WINDOW: tl.constexpr, SHIFTED: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Return the pixel index and the validity of the tokens that this program owns, [BLOCK_M] each."""
    # The last block may exceed the window.
    token = block * BLOCK_M + tl.arange(0, BLOCK_M)
    y = token // WINDOW
    pixel = pixels(window_y * WINDOW + y, window_x * WINDOW + token - y * WINDOW, height, width, shift, SHIFTED)
    return pixel, token < WINDOW * WINDOW


@triton.jit
def streamed_slots(BLOCK_N: tl.constexpr):
    """Return the slot of each column of a score tile, [BLOCK_N]."""
    # A thread of the tensor-core layout holds columns 2c, 2c+1, 8+2c, 8+2c+1 of every 16. Reordering the bits of the
    # column makes those the four neighbouring slots 4c .. 4c+3, so the thread's bias is one 16-byte load:
    #     column = [high][c1 c0][low]   ->   slot = [c1 c0][high][low]
    # The softmax and the sum over the streamed tokens do not depend on their order.
    column = tl.arange(0, BLOCK_N)
    return column // 16 * 16 + column % 8 // 2 * 4 + column % 16 // 8 * 2 + column % 2


@triton.jit
def streamed_pixels(
    first_row, slot, window_y, window_x, height, width, shift,
    WINDOW: tl.constexpr, PADDED: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Return the pixel index and the validity of the window rows from `first_row` on, [BLOCK_N] each."""
    y = first_row + slot // PADDED
    x = slot % PADDED
    pixel = pixels(window_y * WINDOW + y, window_x * WINDOW + x, height, width, shift, SHIFTED)
    return pixel, (x < WINDOW) & (y < WINDOW)


@triton.jit
def bias_offsets(
    first_row, block, window_y, window_x, height, width, shift,
    WINDOW: tl.constexpr, PADDED: tl.constexpr, SHIFTED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """Return the offsets into one head's bias rows, [BLOCK_N / 16, BLOCK_M, 16], and which streamed rows exist."""
    # Axis 1 runs over the owned tokens in the order (repeat, half, warp, row of 8): with 16 slots to a row, Triton's
    # 16-byte loads then give every thread exactly the elements of its tensor-core fragment (see `to_fragments`).
    place = tl.arange(0, BLOCK_M)
    repeat, half = place // (16 * WARPS), place // (8 * WARPS) % 2
    token = block * BLOCK_M + repeat * (16 * WARPS) + place // 8 % WARPS * 16 + half * 8 + place % 8
    # Tokens beyond the window take the bias of the last real one, which keeps the loads inside the rows. Their outputs
    # are not stored, and their gradients are 0.
    token = tl.minimum(token, WINDOW * WINDOW - 1)[None, :, None]
    slot = tl.arange(0, BLOCK_N // 16)[:, None, None] * 16 + tl.arange(0, 16)[None, None, :]
    row = first_row + slot // PADDED
    offset = (token + (WINDOW - 1 - row) * WINDOW) * PADDED + slot % PADDED  # see `prepare_bias` for the row
    if SHIFTED:
        KIND_STRIDE: tl.constexpr = (2 * WINDOW - 1) * WINDOW * PADDED
        # In the last row of windows, the rows from here on come from the other side of the map.
        first_wrapped = WINDOW - shift
        rows_differ = (token // WINDOW >= first_wrapped) != (row >= first_wrapped)
        rows_differ &= (window_y + 1) * WINDOW == height
        # Kind 2 masks everything, kind 1 between the columns of a window in the last column of windows.
        column_offset = tl.where((window_x + 1) * WINDOW == width, KIND_STRIDE, 0)
        offset += tl.where(rows_differ, 2 * KIND_STRIDE, column_offset)
        # The kind is the same for all slots of a row. The compiler cannot see that, and without the hint it would give
        # up the 16-byte loads.
        offset = tl.multiple_of(tl.max_contiguous(offset, [1, 1, 4]), [1, 1, 4])
    return offset, row < WINDOW


@triton.jit
def to_fragments(tile, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WARPS: tl.constexpr):
    """Rearrange a loaded bias tile [BLOCK_N / 16, BLOCK_M, 16] as scores [BLOCK_M, BLOCK_N]."""
    # Every thread already holds the elements of its fragment, so this only renames registers.
    tile = tl.reshape(tile, [BLOCK_N // 16, BLOCK_M // (16 * WARPS), 2, WARPS, 8, 4, 2, 2])
    return tl.reshape(tl.permute(tile, [1, 3, 2, 4, 0, 6, 5, 7]), [BLOCK_M, BLOCK_N])


@triton.jit
def add_product(total, a, b, PRECISION: tl.constexpr):
    """Return total + a b, where a product in float32 is summed on its own before it is added.

    One chain of multiply-adds over 1024 tokens would have more than twice the rounding error of eager PyTorch. `fma`
    with 1 as its factor, because Triton turns a plain sum of a product into that chain.
    """
    if PRECISION == "ieee":
        return tl.fma(tl.dot(a, b, input_precision=PRECISION), tl.full(total.shape, 1.0, tl.float32), total)
    return tl.dot(a.to(b.dtype), b, total, input_precision=PRECISION)
