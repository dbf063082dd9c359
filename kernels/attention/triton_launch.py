"""Tile sizes and launches of the attention kernels."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from kernels.attention.prepare import padded_size
from kernels.attention.triton_backward import attention_backward_key_value, attention_backward_query
from kernels.attention.triton_forward import attention_forward
from kernels.launch import compiler_options, dot_precision


@dataclass(frozen=True)
class Tiles:
    """Owned tokens and streamed slots of a program, its warps and its load stages."""

    block_m: int
    block_n: int
    warps: int
    stages: int


def choose_tiles(window_size: int, dtype: torch.dtype, backward: bool = False) -> Tiles:
    """128 queries read the K and V of a 14-window twice where 64 read them four times; in a smaller window they would
    be mostly padding, and two warps load 32 keys of 16 dims 16 bytes a thread where four load 8. The backward kernels
    hold two score tiles, which leaves registers for 64; float32 has no tensor cores here and spreads over twice the
    warps."""
    if window_size == 4:
        return Tiles(16, 16, 1, 2)
    if backward:
        return Tiles(64, 32, 4, 2)
    if window_size <= 8:
        return Tiles(64, 32, 4 if dtype == torch.float32 else 2, 2)
    return Tiles(128, 32, 8 if dtype == torch.float32 else 4, 2)


def constants(
    window_size: int, head_dim: int, shifted: bool, scale: float, dtype: torch.dtype, tiles: Tiles
) -> dict[str, Any]:
    """The compile-time arguments that all three kernels share."""
    return {
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
    windows = (height // window_size) * (width // window_size)
    return batch * windows * num_heads * int(triton.cdiv(window_size**2, tiles.block_m))


def launch_forward(qkv: Tensor, bias_rows: Tensor, window_size: int, shift_size: int, scale: float) -> Tensor:
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
    batch, height, width, channels = qkv.shape
    num_heads = bias_rows.shape[0]
    tiles = choose_tiles(window_size, qkv.dtype, backward=True)
    grid = (program_count(batch, height, width, num_heads, window_size, tiles),)
    shared = {
        **constants(window_size, channels // 3 // num_heads, shift_size > 0, scale, qkv.dtype, tiles),
        "SCALE": scale,
        **compiler_options(tiles.warps, tiles.stages),
    }
    qkv_grad, bias_grad = torch.empty_like(qkv), torch.zeros_like(bias_rows)
    statistics = qkv.new_empty(3, batch, num_heads, height, width, dtype=torch.float32)
    sizes = (height, width, num_heads, shift_size)
    attention_backward_query[grid](
        qkv, bias_rows, out, grad, qkv_grad, bias_grad, *statistics.unbind(), *sizes, **shared
    )
    mirrored = mirror(bias_rows, window_size)
    attention_backward_key_value[grid](qkv, mirrored, grad, qkv_grad, *statistics.unbind(), *sizes, **shared)
    return qkv_grad, bias_grad


def mirror(bias_rows: Tensor, window_size: int) -> Tensor:
    """The bias rows seen from the keys: row `(yk - yq + w - 1) * w + xk` holds the bias of query columns 0 .. w-1."""
    heads, kinds, _, padded = bias_rows.shape
    rows = bias_rows.view(heads, kinds, -1, window_size, padded)[..., :window_size].flip(2).transpose(3, 4)
    rows = F.pad(rows, (0, padded - window_size), value=float("-inf"))
    return rows.reshape(bias_rows.shape).contiguous()
