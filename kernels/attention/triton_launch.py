"""Choose the tile sizes of the attention kernels and launch them."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from kernels.attention.prepare import padded_size
from kernels.attention.triton_backward import attention_backward_key_value, attention_backward_query
from kernels.attention.triton_bias_launch import launch_bias_gradient
from kernels.attention.triton_forward import attention_forward
from kernels.dispatch import compiler_options, dot_precision


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Hold the tile sizes and the compiler's settings of a kernel.

    block_m: tokens that a program owns.
    block_n: slots of a tile of streamed tokens.
    warps: warps of a program.
    stages: depth of the load pipeline.
    """

    block_m: int
    block_n: int
    warps: int
    stages: int


def choose_tiles(window_size: int, dtype: torch.dtype, backward: bool = False) -> Tiles:
    """Choose the tile sizes for a window, a dtype and a direction."""
    # A 4-window has 16 tokens: one tile is all of it.
    if window_size == 4:
        return Tiles(block_m=16, block_n=16, warps=1, stages=2)
    single = dtype == torch.float32
    # The backward kernels hold two score tiles at a time, which leaves registers for 64 tokens. float32, without tensor
    # cores, would spill with two window rows of 16 slots, and with fewer stages.
    if backward and single and window_size <= 16:
        return Tiles(block_m=64, block_n=16, warps=4, stages=3)
    if backward:
        return Tiles(block_m=64, block_n=32, warps=4, stages=2)
    # In the forward kernel, float32 spreads its work over twice the warps.
    # 128 queries would be mostly padding in a window of at most 64 tokens. Two warps load 32 keys of 16 dims with 16
    # bytes a thread, four would load 8.
    if window_size <= 8:
        return Tiles(block_m=64, block_n=32, warps=4 if single else 2, stages=2)
    # 128 queries read K and V of a 14-window twice, 64 would read them four times.
    return Tiles(block_m=128, block_n=32, warps=8 if single else 4, stages=2)


def constants(
    window_size: int, head_dim: int, shifted: bool, scale: float, dtype: torch.dtype, tiles: Tiles
) -> dict[str, Any]:
    """Return the compile-time arguments that all three kernels share."""
    return {
        # exp2 is the instruction that GPUs have, so e^x is computed as 2^(x log2 e).
        "SCALE_LOG2": scale * math.log2(math.e),
        "WINDOW": window_size,
        "PADDED": padded_size(window_size),
        "HEAD_DIM": head_dim,
        "SHIFTED": shifted,
        "PRECISION": dot_precision(dtype),
        "BLOCK_M": tiles.block_m,
        "BLOCK_N": tiles.block_n,
        "WARPS": tiles.warps,
    }


def program_count(batch: int, height: int, width: int, num_heads: int, window_size: int, tiles: Tiles) -> int:
    """Count the programs of a launch."""
    windows = (height // window_size) * (width // window_size)
    return batch * windows * num_heads * int(triton.cdiv(window_size**2, tiles.block_m))


def launch_forward(qkv: Tensor, bias_rows: Tensor, window_size: int, shift_size: int, scale: float) -> Tensor:
    """Compute `(B, H, W, C)` from contiguous qkv `(B, H, W, 3C)` and prepared bias rows."""
    batch, height, width, channels = qkv.shape
    num_heads = bias_rows.shape[0]
    tiles = choose_tiles(window_size, qkv.dtype)
    out = qkv.new_empty(batch, height, width, channels // 3)
    attention_forward[(program_count(batch, height, width, num_heads, window_size, tiles),)](
        qkv, bias_rows, height, width, num_heads, shift_size, out,
        **constants(window_size, channels // 3 // num_heads, shift_size > 0, scale, qkv.dtype, tiles),
        **compiler_options(tiles.warps, tiles.stages),
    )  # fmt: skip
    return out


def launch_backward(
    grad: Tensor, qkv: Tensor, bias_rows: Tensor, out: Tensor, window_size: int, shift_size: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of qkv and of the bias rows for the gradient of the output, all contiguous."""
    batch, height, width, channels = qkv.shape
    num_heads = bias_rows.shape[0]
    tiles = choose_tiles(window_size, qkv.dtype, backward=True)
    grid = (program_count(batch, height, width, num_heads, window_size, tiles),)
    shared = {
        **constants(window_size, channels // 3 // num_heads, shift_size > 0, scale, qkv.dtype, tiles),
        "SCALE": scale,
        **compiler_options(tiles.warps, tiles.stages),
    }
    qkv_grad = torch.empty_like(qkv)
    # Row maximum, inverse row sum and delta of each query: the first kernel stores them for the others.
    statistics = qkv.new_empty(3, batch, num_heads, height, width, dtype=torch.float32)
    sizes = (height, width, num_heads, shift_size)
    attention_backward_query[grid](qkv, bias_rows, out, grad, qkv_grad, *statistics.unbind(), *sizes, **shared)
    mirrored = mirror(bias_rows, window_size)
    attention_backward_key_value[grid](qkv, mirrored, grad, qkv_grad, *statistics.unbind(), *sizes, **shared)
    return qkv_grad, launch_bias_gradient(grad, qkv, bias_rows, statistics, window_size, shift_size, scale)


def mirror(bias_rows: Tensor, window_size: int) -> Tensor:
    """Turn the bias rows to the view of the keys.

    Row `(yk - yq + w - 1) * w + xk` of the result holds the bias of key column xk to the query columns 0 .. w-1.
    """
    heads, kinds, _, padded = bias_rows.shape
    rows = bias_rows.view(heads, kinds, -1, window_size, padded)[..., :window_size].flip(2).transpose(3, 4)
    rows = F.pad(rows, (0, padded - window_size), value=float("-inf"))
    return rows.reshape(bias_rows.shape).contiguous()
