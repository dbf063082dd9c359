"""Compute the gradients of q, then those of k and v, in a kernel each.

Scores are never stored: each kernel computes them again.
"""

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
def attention_backward_query(
    qkv_ptr, bias_ptr, out_ptr, grad_ptr, qkv_grad_ptr, row_max_ptr, inverse_sum_ptr, delta_ptr,
    height, width, num_heads, shift,
    SCALE: tl.constexpr, SCALE_LOG2: tl.constexpr, WINDOW: tl.constexpr, PADDED: tl.constexpr, HEAD_DIM: tl.constexpr,
    SHIFTED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """Compute dq for BLOCK_M queries, with streamed keys.

    Stores the softmax statistics and delta = sum(grad * out) of each query for the other kernels.
    """
    KINDS: tl.constexpr = 3 if SHIFTED else 1
    EVEN: tl.constexpr = WINDOW % (BLOCK_N // PADDED) == 0
    block, head, image, window_y, window_x = locate(num_heads, height, width, WINDOW, BLOCK_M)
    channels = num_heads * HEAD_DIM
    dims = tl.arange(0, HEAD_DIM)
    qkv_offset = image * (height * width * channels * 3) + head * HEAD_DIM
    out_offset = image * (height * width * channels) + head * HEAD_DIM
    bias_offset = head * (KINDS * (2 * WINDOW - 1) * WINDOW * PADDED)

    pixel, valid = owned_pixels(block, window_y, window_x, height, width, shift, WINDOW, SHIFTED, BLOCK_M)
    query = tl.load(qkv_ptr + qkv_offset + pixel[:, None] * (3 * channels) + dims, mask=valid[:, None], other=0.0)
    out_offsets = out_offset + pixel[:, None] * channels + dims
    grad = tl.load(grad_ptr + out_offsets, mask=valid[:, None], other=0.0)  # [M, D]
    out = tl.load(out_ptr + out_offsets, mask=valid[:, None], other=0.0)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    slot = streamed_slots(BLOCK_N)

    # First pass: the softmax statistics, as in the forward kernel, which does not store them.
    running_max = tl.full([BLOCK_M], -1e30, tl.float32)
    running_sum = tl.zeros([BLOCK_M], tl.float32)
    for first_row in range(0, WINDOW, BLOCK_N // PADDED):
        key_pixel, key_valid = streamed_pixels(
            first_row, slot, window_y, window_x, height, width, shift, WINDOW, PADDED, SHIFTED
        )
        key_offsets = qkv_offset + channels + key_pixel[:, None] * (3 * channels) + dims
        key = tl.load(qkv_ptr + key_offsets, mask=key_valid[:, None], other=0.0)
        offset, exists = bias_offsets(
            first_row, block, window_y, window_x, height, width, shift,
            WINDOW, PADDED, SHIFTED, BLOCK_M, BLOCK_N, WARPS,
        )  # fmt: skip
        bias = tl.load(bias_ptr + bias_offset + offset, mask=exists | EVEN, other=float("-inf"))
        bias = to_fragments(bias, BLOCK_M, BLOCK_N, WARPS)
        scores = tl.dot(query, tl.trans(key), bias, input_precision=PRECISION)
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        running_sum = running_sum * tl.exp2((running_max - new_max) * SCALE_LOG2)
        running_sum += tl.sum(tl.exp2(scores * SCALE_LOG2 - (new_max * SCALE_LOG2)[:, None]), 1)
        running_max = new_max
    # Two numbers a row and not their log-sum-exp, whose rounding alone would double the error in float32.
    row_max = running_max * SCALE_LOG2  # in the exponents of exp2
    inverse_sum = 1.0 / running_sum

    # Second pass: with the statistics of the whole row, every tile's weights are final.
    query_grad = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for first_row in range(0, WINDOW, BLOCK_N // PADDED):
        key_pixel, key_valid = streamed_pixels(
            first_row, slot, window_y, window_x, height, width, shift, WINDOW, PADDED, SHIFTED
        )
        key_offsets = qkv_offset + channels + key_pixel[:, None] * (3 * channels) + dims
        key = tl.load(qkv_ptr + key_offsets, mask=key_valid[:, None], other=0.0)
        value = tl.load(qkv_ptr + key_offsets + channels, mask=key_valid[:, None], other=0.0)
        offset, exists = bias_offsets(
            first_row, block, window_y, window_x, height, width, shift,
            WINDOW, PADDED, SHIFTED, BLOCK_M, BLOCK_N, WARPS,
        )  # fmt: skip
        bias = tl.load(bias_ptr + bias_offset + offset, mask=exists | EVEN, other=float("-inf"))
        bias = to_fragments(bias, BLOCK_M, BLOCK_N, WARPS)
        scores = tl.dot(query, tl.trans(key), bias, input_precision=PRECISION)
        # These weights lack the factor inverse_sum, which both terms of the score gradients carry instead. The score
        # gradients lack the factor SCALE, which dq receives below.
        weights = tl.exp2(scores * SCALE_LOG2 - row_max[:, None])
        weights_grad = tl.dot(grad, tl.trans(value), input_precision=PRECISION)
        scores_grad = weights * (weights_grad * inverse_sum[:, None] - (delta * inverse_sum)[:, None])  # [M, N]
        query_grad = add_product(query_grad, scores_grad, key, PRECISION)

    qkv_grad_ptrs = qkv_grad_ptr + qkv_offset + pixel[:, None] * (3 * channels) + dims
    tl.store(qkv_grad_ptrs, (query_grad * SCALE).to(qkv_grad_ptr.dtype.element_ty), mask=valid[:, None])
    row = (image * num_heads + head) * (height * width) + pixel
    tl.store(row_max_ptr + row, row_max, mask=valid)
    tl.store(inverse_sum_ptr + row, inverse_sum, mask=valid)
    tl.store(delta_ptr + row, delta, mask=valid)


@triton.jit
def attention_backward_key_value(
    qkv_ptr, mirrored_bias_ptr, grad_ptr, qkv_grad_ptr, row_max_ptr, inverse_sum_ptr, delta_ptr,
    height, width, num_heads, shift,
    SCALE: tl.constexpr, SCALE_LOG2: tl.constexpr, WINDOW: tl.constexpr, PADDED: tl.constexpr, HEAD_DIM: tl.constexpr,
    SHIFTED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """Compute dk and dv for BLOCK_M keys, with streamed queries.

    Here keys own the rows of the score tiles, so the bias rows are those of `triton_launch.mirror`.
    """
    KINDS: tl.constexpr = 3 if SHIFTED else 1
    EVEN: tl.constexpr = WINDOW % (BLOCK_N // PADDED) == 0
    block, head, image, window_y, window_x = locate(num_heads, height, width, WINDOW, BLOCK_M)
    channels = num_heads * HEAD_DIM
    dims = tl.arange(0, HEAD_DIM)
    qkv_offset = image * (height * width * channels * 3) + head * HEAD_DIM
    out_offset = image * (height * width * channels) + head * HEAD_DIM
    mirrored_bias_ptr += head * (KINDS * (2 * WINDOW - 1) * WINDOW * PADDED)

    pixel, valid = owned_pixels(block, window_y, window_x, height, width, shift, WINDOW, SHIFTED, BLOCK_M)
    key_offsets = qkv_offset + channels + pixel[:, None] * (3 * channels) + dims
    key = tl.load(qkv_ptr + key_offsets, mask=valid[:, None], other=0.0)  # [M, D]
    value = tl.load(qkv_ptr + key_offsets + channels, mask=valid[:, None], other=0.0)
    slot = streamed_slots(BLOCK_N)

    key_grad = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    value_grad = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    for first_row in range(0, WINDOW, BLOCK_N // PADDED):
        query_pixel, query_valid = streamed_pixels(
            first_row, slot, window_y, window_x, height, width, shift, WINDOW, PADDED, SHIFTED
        )
        query_ptrs = qkv_ptr + qkv_offset + query_pixel[:, None] * (3 * channels) + dims
        query = tl.load(query_ptrs, mask=query_valid[:, None], other=0.0)  # [N, D]
        grad_ptrs = grad_ptr + out_offset + query_pixel[:, None] * channels + dims
        grad = tl.load(grad_ptrs, mask=query_valid[:, None], other=0.0)
        row = (image * num_heads + head) * (height * width) + query_pixel
        # Padded queries score -inf, and these zeros keep their weights at 0.
        row_max = tl.load(row_max_ptr + row, mask=query_valid, other=0.0)
        inverse_sum = tl.load(inverse_sum_ptr + row, mask=query_valid, other=0.0)
        delta = tl.load(delta_ptr + row, mask=query_valid, other=0.0)
        offset, exists = bias_offsets(
            first_row, block, window_y, window_x, height, width, shift,
            WINDOW, PADDED, SHIFTED, BLOCK_M, BLOCK_N, WARPS,
        )  # fmt: skip
        bias = tl.load(mirrored_bias_ptr + offset, mask=exists | EVEN, other=float("-inf"))
        bias = to_fragments(bias, BLOCK_M, BLOCK_N, WARPS)
        scores = tl.dot(key, tl.trans(query), bias, input_precision=PRECISION)  # [M keys, N queries]
        weights = tl.exp2(scores * SCALE_LOG2 - row_max[None, :]) * inverse_sum[None, :]
        value_grad = add_product(value_grad, weights, grad, PRECISION)
        weights_grad = tl.dot(value, tl.trans(grad), input_precision=PRECISION)
        scores_grad = weights * (weights_grad - delta[None, :])
        key_grad = add_product(key_grad, scores_grad, query, PRECISION)

    tl.store(qkv_grad_ptr + key_offsets, (key_grad * SCALE).to(qkv_grad_ptr.dtype.element_ty), mask=valid[:, None])
    value_grad = value_grad.to(qkv_grad_ptr.dtype.element_ty)
    tl.store(qkv_grad_ptr + key_offsets + channels, value_grad, mask=valid[:, None])
