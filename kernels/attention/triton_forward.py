"""Compute the forward pass in one launch, from qkv to the output, both in image layout."""

# mypy: ignore-errors
# Functions of the Triton language are compiled, not called: their arguments have no Python types.

import triton
import triton.language as tl

from kernels.attention.triton_tiles import (
    add_product,
    bias_offsets,
    locate,
    owned_pixels,
    streamed_pixels,
    streamed_slots,
    to_fragments,
)


@triton.jit
def attention_forward(
    qkv_ptr, bias_ptr, height, width, num_heads, shift, out_ptr,
    SCALE_LOG2: tl.constexpr, WINDOW: tl.constexpr, PADDED: tl.constexpr, HEAD_DIM: tl.constexpr,
    SHIFTED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """Compute softmax(scale * (q k^T + bias)) v for BLOCK_M queries of one window and head, with streamed keys."""
    KINDS: tl.constexpr = 3 if SHIFTED else 1
    block, head, image, window_y, window_x = locate(num_heads, height, width, WINDOW, BLOCK_M)
    channels = num_heads * HEAD_DIM
    dims = tl.arange(0, HEAD_DIM)
    qkv_ptr += image * (height * width * channels * 3) + head * HEAD_DIM
    bias_ptr += head * (KINDS * (2 * WINDOW - 1) * WINDOW * PADDED)

    pixel, valid = owned_pixels(block, window_y, window_x, height, width, shift, WINDOW, SHIFTED, BLOCK_M)
    query = tl.load(qkv_ptr + pixel[:, None] * (3 * channels) + dims, mask=valid[:, None], other=0.0)  # [M, D]
    slot = streamed_slots(BLOCK_N)

    # A finite start: with -inf, a row whose first keys all score -inf would compute -inf - (-inf) = NaN.
    running_max = tl.full([BLOCK_M], -1e30, tl.float32)
    running_sum = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for first_row in range(0, WINDOW, BLOCK_N // PADDED):
        key_pixel, key_valid = streamed_pixels(
            first_row, slot, window_y, window_x, height, width, shift, WINDOW, PADDED, SHIFTED
        )
        key_ptrs = qkv_ptr + channels + key_pixel[:, None] * (3 * channels) + dims
        key = tl.load(key_ptrs, mask=key_valid[:, None], other=0.0)  # [N, D]
        value = tl.load(key_ptrs + channels, mask=key_valid[:, None], other=0.0)
        offset, exists = bias_offsets(
            first_row, block, window_y, window_x, height, width, shift,
            WINDOW, PADDED, SHIFTED, BLOCK_M, BLOCK_N, WARPS,
        )  # fmt: skip
        # Where the tiles fill the window evenly, no row needs a mask.
        if WINDOW % (BLOCK_N // PADDED) == 0:
            bias = tl.load(bias_ptr + offset)
        else:
            bias = tl.load(bias_ptr + offset, mask=exists, other=float("-inf"))

        # Scores are in units of 1 / scale: the bias is the first value of the accumulator, and scale * log2(e) is a
        # factor of the multiply-add in front of exp2, so that q is never rounded again.
        bias = to_fragments(bias, BLOCK_M, BLOCK_N, WARPS)
        scores = tl.dot(query, tl.trans(key), bias, input_precision=PRECISION)  # [M, N]
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        weights = tl.exp2(scores * SCALE_LOG2 - (new_max * SCALE_LOG2)[:, None])
        # The sums of earlier tiles are relative to the maximum so far.
        rescale = tl.exp2((running_max - new_max) * SCALE_LOG2)
        running_sum = running_sum * rescale + tl.sum(weights, 1)
        acc = add_product(acc * rescale[:, None], weights, value, PRECISION)
        running_max = new_max

    out_ptr += image * (height * width * channels) + head * HEAD_DIM
    out = (acc * (1.0 / running_sum)[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + pixel[:, None] * channels + dims, out, mask=valid[:, None])
