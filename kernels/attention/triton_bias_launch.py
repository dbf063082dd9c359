"""Choose the tile sizes of the kernel of the bias gradient, launch it and add up its tiles."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from kernels.attention.prepare import padded_size
from kernels.attention.triton_bias_gradient import attention_backward_bias
from kernels.dispatch import compiler_options, dot_precision

ENOUGH_PROGRAMS = 512  # of four warps, to occupy a GPU


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Hold the tile sizes and the compiler's settings of the kernel of the bias gradient.

    side: slots of a tile on either side.
    images: images of a program.
    warps: warps of a program.
    stages: depth of the load pipeline.
    """

    side: int
    images: int
    warps: int
    stages: int


def choose_tiles(batch: int, width: int, num_heads: int, window_size: int, shifted: bool, dtype: torch.dtype) -> Tiles:
    """Choose the tile sizes of the kernel of the bias gradient."""
    # A 4-window is one tile of 16 slots. float32, without tensor cores, spreads its work over twice the warps.
    side = min(64, padded_size(window_size) ** 2)
    warps = 1 if side == 16 else 8 if dtype == torch.float32 else 4
    tiles = Tiles(side=side, images=batch, warps=warps, stages=2)
    programs = math.prod(grid(batch, width, num_heads, window_size, shifted, tiles)[:-2])
    # Every group of images stores tiles of its own, so there are only as many as occupy a GPU.
    groups = min(batch, triton.cdiv(ENOUGH_PROGRAMS, programs))
    return replace(tiles, images=triton.cdiv(batch, groups))


def grid(batch: int, width: int, num_heads: int, window_size: int, shifted: bool, tiles: Tiles) -> tuple[int, ...]:
    """Return the shape of the tiles that the kernel of the bias gradient stores, one a program.

    It is (groups of images, columns of windows, heads, parts, diagonals, side, side).
    """
    blocks = triton.cdiv(window_size, tiles.side // padded_size(window_size))
    groups, parts = triton.cdiv(batch, tiles.images), 2 if shifted else 1
    return groups, width // window_size, num_heads, parts, 2 * blocks - 1, tiles.side, tiles.side


def constants(
    window_size: int, head_dim: int, shifted: bool, scale: float, dtype: torch.dtype, tiles: Tiles
) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel of the bias gradient."""
    return {
        "SCALE": scale,
        "SCALE_LOG2": scale * math.log2(math.e),
        "WINDOW": window_size,
        "PADDED": padded_size(window_size),
        "HEAD_DIM": head_dim,
        "SHIFTED": shifted,
        "PRECISION": dot_precision(dtype),
        "SIDE": tiles.side,
    }


def launch_bias_gradient(
    grad: Tensor, qkv: Tensor, bias_rows: Tensor, statistics: Tensor, window_size: int, shift_size: int, scale: float
) -> Tensor:
    """Return the gradient of the bias rows, from the statistics that the kernel of dq has stored."""
    batch, height, width, channels = qkv.shape
    num_heads, shifted = bias_rows.shape[0], shift_size > 0
    tiles = choose_tiles(batch, width, num_heads, window_size, shifted, qkv.dtype)
    sums = qkv.new_empty(*grid(batch, width, num_heads, window_size, shifted, tiles), dtype=torch.float32)
    attention_backward_bias[(math.prod(sums.shape[:-2]),)](
        qkv, bias_rows, grad, sums, *statistics.unbind(), batch, tiles.images, height, width, num_heads, shift_size,
        **constants(window_size, channels // 3 // num_heads, shifted, scale, qkv.dtype, tiles),
        **compiler_options(tiles.warps, tiles.stages),
    )  # fmt: skip
    return gather_tiles(sums, window_size)


def gather_tiles(tiles: Tensor, window_size: int) -> Tensor:
    """Add up the tiles of the kernel of the bias gradient, always in the same order.

    Takes `(groups, columns of windows, heads, parts, diagonals, side, side)`. The gradient is shaped like the rows.
    """
    padded = padded_size(window_size)
    _, _, heads, parts, diagonals, side, _ = tiles.shape
    tiles = tiles.sum(0)
    # The first part of the last column has the rows of kind 1, that of all others kind 0. The second part has kind 2.
    kinds = (tiles[:-1, :, 0].sum(0), tiles[-1, :, 0], tiles[:, :, 1].sum(0)) if parts == 2 else (tiles.sum(0)[:, 0],)
    rows = side // padded
    tiles = torch.stack(kinds, 1).view(heads, len(kinds), diagonals * rows, padded, rows, padded)
    # Row i of a tile's queries and row j of its keys have the distance i - j, beside that of the tile.
    by_distance = sum(F.pad(tiles[..., j, :], (0, 0, 0, 0, rows - 1 - j, j)) for j in range(rows))
    assert isinstance(by_distance, Tensor)
    first = (diagonals + 1) // 2 * rows - window_size
    real = by_distance[:, :, first : first + 2 * window_size - 1, :window_size]
    return real.reshape(heads, len(kinds), -1, padded)
