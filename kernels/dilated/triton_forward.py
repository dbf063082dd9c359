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
def dilated_forward(
    x_ptr, taps_ptr, bias_ptr, height, width, out_ptr,
    C_IN: tl.constexpr, C_OUT: tl.constexpr, DILATIONS: tl.constexpr, PRECISION: tl.constexpr,
    TILE_Y: tl.constexpr, TILE_X: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Compute relu(bias + sum of live taps) for TILE_Y x TILE_X pixels and BLOCK_N output channels of one image."""
    N_BLOCKS: tl.constexpr = (C_OUT + BLOCK_N - 1) // BLOCK_N
    K_BLOCKS: tl.constexpr = (C_IN + BLOCK_K - 1) // BLOCK_K
    # Blocks of output channels of one tile are neighbours in the grid: they read the same pixels.
    program = tl.program_id(0)
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
    for step in range(steps * K_BLOCKS):
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

    acc += tl.load(bias_ptr + column, mask=column < C_OUT, other=0.0).to(tl.float32)[None, :]
    # As torch.relu: NaN stays NaN, which a plain maximum would turn into 0.
    acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    inside = (y >= 0)[:, None] & (column < C_OUT)[None, :]
    tl.store(out_ptr + pixel[:, None] * C_OUT + column[None, :], acc.to(out_ptr.dtype.element_ty), mask=inside)
