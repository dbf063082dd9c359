"""Compute the gradient of the bias rows, without atomic additions.

The matrix of a window's scores is divided into square tiles of SIDE / PADDED window rows on either side. All tiles of
one of its diagonals, in all windows, have the same biases, so a program adds them up and stores the sum once.
"""

# mypy: ignore-errors
# Functions of the Triton language are compiled, not called: their arguments have no Python types.

import triton
import triton.language as tl

from kernels.attention.triton_tiles import streamed_pixels


@triton.jit
def attention_backward_bias(
    qkv_ptr, bias_ptr, grad_ptr, bias_grad_ptr, row_max_ptr, inverse_sum_ptr, delta_ptr,
    batch, images, height, width, num_heads, shift,
    SCALE: tl.constexpr, SCALE_LOG2: tl.constexpr, WINDOW: tl.constexpr, PADDED: tl.constexpr, HEAD_DIM: tl.constexpr,
    SHIFTED: tl.constexpr, PRECISION: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """Compute the sum of one diagonal's tiles in one column of windows of `images` images, for one head.

    With SHIFTED, a program takes either the scores whose rows the shift brings together or all others, because their
    bias rows are of different kinds. `triton_bias_launch.grid` lists the order of the programs.
    """
    ROWS: tl.constexpr = SIDE // PADDED
    BLOCKS: tl.constexpr = (WINDOW + ROWS - 1) // ROWS
    PARTS: tl.constexpr = 2 if SHIFTED else 1
    KINDS: tl.constexpr = 3 if SHIFTED else 1
    program = tl.program_id(0)
    diagonal = program % (2 * BLOCKS - 1) - (BLOCKS - 1)  # block of query rows minus block of key rows
    part = program // (2 * BLOCKS - 1) % PARTS
    head = program // (2 * BLOCKS - 1) // PARTS % num_heads
    place = program // (2 * BLOCKS - 1) // PARTS // num_heads
    window_x = place % (width // WINDOW)
    first_image = place // (width // WINDOW) * images
    channels = num_heads * HEAD_DIM
    dims = tl.arange(0, HEAD_DIM)
    slot = tl.arange(0, SIDE)
    column = slot % PADDED

    # The biases of the tile (see `prepare_bias`).
    distance = diagonal * ROWS + (slot // PADDED)[:, None] - (slot // PADDED)[None, :]
    exists = (distance > -WINDOW) & (distance < WINDOW) & (column < WINDOW)[:, None]
    kind = head * KINDS
    if SHIFTED:
        kind += tl.where(part == 1, 2, ((window_x + 1) * WINDOW == width).to(tl.int32))
    row = (kind * (2 * WINDOW - 1) + distance + WINDOW - 1) * WINDOW + column[:, None]
    bias = tl.load(bias_ptr + row * PADDED + column[None, :], mask=exists, other=float("-inf"))

    total = tl.zeros([SIDE, SIDE], tl.float32)
    window_rows = height // WINDOW
    # Only windows of the last row have rows that the shift brings together.
    windows = window_rows if part == 0 else 1
    tiles = BLOCKS - tl.abs(diagonal)
    for step in range(tl.minimum(images, batch - first_image) * windows * tiles):
        image = first_image + step // tiles // windows
        window_y = window_rows - 1 - step // tiles % windows
        first_key = (step % tiles + tl.maximum(-diagonal, 0)) * ROWS
        first_query = first_key + diagonal * ROWS
        query_pixel, query_valid = streamed_pixels(
            first_query, slot, window_y, window_x, height, width, shift, WINDOW, PADDED, SHIFTED
        )
        key_pixel, key_valid = streamed_pixels(
            first_key, slot, window_y, window_x, height, width, shift, WINDOW, PADDED, SHIFTED
        )
        image_ptr = qkv_ptr + image * (height * width * channels * 3) + head * HEAD_DIM
        query = tl.load(image_ptr + query_pixel[:, None] * (3 * channels) + dims, mask=query_valid[:, None], other=0.0)
        key_ptrs = image_ptr + channels + key_pixel[:, None] * (3 * channels) + dims
        key = tl.load(key_ptrs, mask=key_valid[:, None], other=0.0)
        value = tl.load(key_ptrs + channels, mask=key_valid[:, None], other=0.0)
        grad_ptrs = grad_ptr + image * (height * width * channels) + head * HEAD_DIM
        grad = tl.load(grad_ptrs + query_pixel[:, None] * channels + dims, mask=query_valid[:, None], other=0.0)
        number = (image * num_heads + head) * (height * width) + query_pixel
        # This maximum gives the slots without a query the weight 0.
        row_max = tl.load(row_max_ptr + number, mask=query_valid, other=float("inf"))
        inverse_sum = tl.load(inverse_sum_ptr + number, mask=query_valid, other=0.0)
        delta = tl.load(delta_ptr + number, mask=query_valid, other=0.0)

        scores = tl.dot(query, tl.trans(key), bias, input_precision=PRECISION)
        weights = tl.exp2(scores * SCALE_LOG2 - row_max[:, None])
        weights_grad = tl.dot(grad, tl.trans(value), input_precision=PRECISION)
        scores_grad = weights * (weights_grad * inverse_sum[:, None] - (delta * inverse_sum)[:, None])
        # Slots without a key have a bias of their own where their row is beyond the window.
        counted = key_valid[None, :]
        if SHIFTED:
            query_wrapped = first_query + slot // PADDED >= WINDOW - shift
            key_wrapped = first_key + slot // PADDED >= WINDOW - shift
            differ = (query_wrapped[:, None] != key_wrapped[None, :]) & (window_y == window_rows - 1)
            counted = counted & (differ == (part == 1))
        total += tl.where(counted, scores_grad, 0.0)

    # int64, because there are as many tiles as programs.
    tile_ptr = bias_grad_ptr + program.to(tl.int64) * (SIDE * SIDE)
    tl.store(tile_ptr + slot[:, None] * SIDE + slot[None, :], total * SCALE)
