"""Choose the tile sizes of the dilated convolution kernel and launch it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.dilated.prepare import distinct
from kernels.dilated.triton_forward import dilated_forward
from kernels.dispatch import compiler_options, dot_precision


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Hold the tile sizes and the compiler's settings of the kernel.

    tile_y: rows of output pixels of a program.
    tile_x: columns of output pixels of a program.
    block_n: output channels of a program.
    block_k: input channels of one step of the main loop.
    warps: warps of a program.
    stages: depth of the load pipeline.
    """

    tile_y: int
    tile_x: int
    block_n: int
    block_k: int
    warps: int
    stages: int


def choose_tiles(height: int, width: int, c_in: int) -> Tiles:
    """Choose the tile sizes for a map and its input channels."""
    # A tile computes every tap that any of its pixels needs, so small maps take small tiles. Executed part of the dense
    # 25-tap sum at 112, 56, 28 and 14 px with dilations 6, 12, 18: 0.90, 0.81, 0.76, 0.48 with 8x8 and 0.88, 0.78,
    # 0.64, 0.40 with 4x8. But 8x8 issues 7 instructions per tensor-core instruction where 4x8 issues 12.
    tile_y = 8 if min(height, width) >= 48 else 4
    block_k = 64 if c_in >= 64 else 32 if c_in >= 32 else 16
    return Tiles(tile_y=tile_y, tile_x=8, block_n=64, block_k=block_k, warps=4, stages=3)


def constants(c_in: int, c_out: int, dilations: Sequence[int], dtype: torch.dtype, tiles: Tiles) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel."""
    return {
        "C_IN": c_in,
        "C_OUT": c_out,
        "DILATIONS": distinct(dilations),
        "PRECISION": dot_precision(dtype),
        "TILE_Y": tiles.tile_y,
        "TILE_X": tiles.tile_x,
        "BLOCK_N": tiles.block_n,
        "BLOCK_K": tiles.block_k,
    }


def program_count(batch: int, height: int, width: int, c_out: int, tiles: Tiles) -> int:
    """Count the programs of a launch."""
    pixels = triton.cdiv(height, tiles.tile_y) * triton.cdiv(width, tiles.tile_x)
    return int(batch * pixels * triton.cdiv(c_out, tiles.block_n))


def launch(x: Tensor, taps: Tensor, bias: Tensor, dilations: Sequence[int]) -> Tensor:
    """Compute `(B, H, W, C_out)` from contiguous x `(B, H, W, C_in)`, packed taps and the bias."""
    batch, height, width, c_in = x.shape
    c_out = taps.shape[2]
    tiles = choose_tiles(height, width, c_in)
    out = x.new_empty(batch, height, width, c_out)
    dilated_forward[(program_count(batch, height, width, c_out, tiles),)](
        x, taps, bias, height, width, out,
        **constants(c_in, c_out, dilations, x.dtype, tiles), **compiler_options(tiles.warps, tiles.stages),
    )  # fmt: skip
    return out
