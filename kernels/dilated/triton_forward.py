"""Compute the convolutions of all branches as one implicit matrix product over the live taps.

A tap is live for a tile if some pixel of the tile reads the map at its offset. Dead taps only meet zero padding.
"""

# mypy: ignore-errors
# Functions of the Triton language are compiled, not called: their arguments have no Python types.

import triton
import triton.language as tl


@triton.jit
def live_span(first, last, length, dilation):
    """Return the lowest and the highest of the offsets -1, 0, 1 (times dilation) at which first .. last is live."""
    # The offset 0 is always live, so the live offsets are contiguous.
    return tl.where(last >= dilation, -1, 0), tl.where(first + dilation < length, 1, 0)


@triton.jit
def live_outer_taps(first_y, last_y, first_x, last_x, height, width, dilation):
    """Count the live outer taps of one dilation, which form a grid around the centre."""
    low_y, high_y = live_span(first_y, last_y, height, dilation)
    low_x, high_x = live_span(first_x, last_x, width, dilation)
    return (high_y - low_y + 1) * (high_x - low_x + 1) - 1


@triton.jit
def live_tap(index, first_y, last_y, first_x, last_x, height, width, DILATIONS: tl.constexpr):
    """Return (tap, dy, dx) of the index-th live tap: the centre first, then those of each dilation, row by row."""
    tap = index * 0
    dy = tap
    dx = tap
    place = index - 1
    for branch in tl.static_range(len(DILATIONS)):
        dilation = DILATIONS[branch]
        low_y, high_y = live_span(first_y, last_y, height, dilation)
        low_x, high_x = live_span(first_x, last_x, width, dilation)
        columns = high_x - low_x + 1
        count = (high_y - low_y + 1) * columns - 1
        cell = place + (place >= -low_y * columns - low_x).to(tl.int32)  # skips the centre
        # The grid has at most three rows, so two comparisons replace a division.
        row = (cell >= columns).to(tl.int32) + (cell >= 2 * columns).to(tl.int32)
        y = low_y + row
        x = low_x + cell - row * columns
        number = (y + 1) * 3 + x + 1
        # The index belongs to one dilation, or to none if it is that of the centre.
        here = (place >= 0) & (place < count)
        tap = tl.where(here, 1 + 8 * branch + number - (number > 4).to(tl.int32), tap)
        dy = tl.where(here, y * dilation, dy)
        dx = tl.where(here, x * dilation, dx)
        place -= count
    return tap, dy, dx


@triton.jit
def finish(acc, bias):
    """Return relu(acc + bias)."""
    # As torch.relu: NaN stays NaN, which a plain maximum would turn into 0.
    return tl.maximum(acc + bias.to(tl.float32), 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def dilated_forward(
    x_ptr, taps_ptr, bias_ptr, height, width, out_ptr,
    C_IN: tl.constexpr, C_OUT: tl.constexpr, DILATIONS: tl.constexpr, PRECISION: tl.constexpr,
    TILE_Y: tl.constexpr, TILE_X: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Compute relu(bias + sum of live taps) for TILE_Y x TILE_X pixels and BLOCK_N output channels of one image.

    With SPLITS above 1, a program computes only its part of the sum, without bias and ReLU. The output is then float32
    `(B, SPLITS, H, W, C_OUT)`.
    """
    N_BLOCKS: tl.constexpr = (C_OUT + BLOCK_N - 1) // BLOCK_N
    K_BLOCKS: tl.constexpr = (C_IN + BLOCK_K - 1) // BLOCK_K
    # Blocks of output channels of one tile are neighbours in the grid: they read the same pixels.
    split = tl.program_id(0) % SPLITS
    program = tl.program_id(0) // SPLITS
    tile = program // N_BLOCKS
    tiles_x = tl.cdiv(width, TILE_X)
    tiles_y = tl.cdiv(height, TILE_Y)
    image = tile // tiles_x // tiles_y
    first_y = tile // tiles_x % tiles_y * TILE_Y
    first_x = tile % tiles_x * TILE_X
    last_y = tl.minimum(first_y + TILE_Y, height) - 1
    last_x = tl.minimum(first_x + TILE_X, width) - 1

    place = tl.arange(0, TILE_Y * TILE_X)
    y = first_y + place // TILE_X
    x = first_x + place % TILE_X
    pixel = (image * height + y) * width + x
    # Pixels of the tile beyond the map get a row that no tap brings back inside.
    y = tl.where((y < height) & (x < width), y, -(2**30))
    channel = tl.arange(0, BLOCK_K)
    column = program % N_BLOCKS * BLOCK_N + tl.arange(0, BLOCK_N)
    x_ptrs = x_ptr + pixel[:, None] * C_IN + channel[None, :]
    taps_ptrs = taps_ptr + channel[:, None] * C_OUT + column[None, :]

    steps = 1
    for branch in tl.static_range(len(DILATIONS)):
        steps += live_outer_taps(first_y, last_y, first_x, last_x, height, width, DILATIONS[branch])
    # One flat loop over (live tap, block of input channels) keeps the load pipeline full from tap to tap.
    acc = tl.zeros([TILE_Y * TILE_X, BLOCK_N], tl.float32)
    steps *= K_BLOCKS
    for step in range(split * steps // SPLITS, (split + 1) * steps // SPLITS):
        tap, dy, dx = live_tap(step // K_BLOCKS, first_y, last_y, first_x, last_x, height, width, DILATIONS)
        first_channel = step % K_BLOCKS * BLOCK_K
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
        inside_x = inside[:, None]
        inside_w = (column < C_OUT)[None, :]
        # Only a partial last block of input channels needs this mask.
        if C_IN % BLOCK_K != 0:
            inside_x = inside_x & (first_channel + channel < C_IN)[None, :]
            inside_w = inside_w & (first_channel + channel < C_IN)[:, None]
        x_tile = tl.load(x_ptrs + ((dy * width + dx) * C_IN + first_channel), mask=inside_x, other=0.0)
        w_tile = tl.load(taps_ptrs + (tap * C_IN + first_channel) * C_OUT, mask=inside_w, other=0.0)
        acc = tl.dot(x_tile, w_tile, acc, input_precision=PRECISION)

    if SPLITS == 1:
        acc = finish(acc, tl.load(bias_ptr + column, mask=column < C_OUT, other=0.0)[None, :])
    else:
        pixel += (image * (SPLITS - 1) + split) * height * width
    inside = (y >= 0)[:, None] & (column < C_OUT)[None, :]
    tl.store(out_ptr + pixel[:, None] * C_OUT + column[None, :], acc.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def dilated_sum(
    parts_ptr, bias_ptr, height, width, out_ptr, C_OUT: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Compute relu(bias + sum of the SPLITS parts) for BLOCK values of one image."""
    values = height * width * C_OUT
    blocks = tl.cdiv(values, BLOCK)
    image = tl.program_id(0) // blocks
    place = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    exists = place < values
    acc = tl.zeros([BLOCK], tl.float32)
    for split in tl.static_range(SPLITS):
        acc += tl.load(parts_ptr + (image * SPLITS + split) * values + place, mask=exists, other=0.0)
    acc = finish(acc, tl.load(bias_ptr + place % C_OUT, mask=exists, other=0.0))
    tl.store(out_ptr + image * values + place, acc.to(out_ptr.dtype.element_ty), mask=exists)
