"""Choose the tile sizes of the dilated convolution kernel and launch it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from kernels.dilated.prepare import distinct
from kernels.dilated.triton_forward import dilated_forward, dilated_sum
from kernels.dispatch import compiler_options, dot_precision

ENOUGH_PROGRAMS = 96  # keep most multiprocessors of a data-centre GPU busy: an A100 has 108, an H100 132
SUM_BLOCK, SUM_WARPS = 512, 4  # values and warps of a program of the kernel that adds up


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """Hold the tile sizes and the compiler's settings of the kernel.

    tile_y: rows of output pixels of a program.
    tile_x: columns of output pixels of a program.
    block_n: output channels of a program.
    block_k: input channels of one step of the main loop.
    splits: programs that share the taps and input channels of one tile. A second kernel adds up what they find.
    warps: warps of a program.
    stages: depth of the load pipeline.
    """

    tile_y: int
    tile_x: int
    block_n: int
    block_k: int
    splits: int
    warps: int
    stages: int


def choose_tiles(
    batch: int, height: int, width: int, c_in: int, c_out: int, dtype: torch.dtype, one_launch: bool = False
) -> Tiles:
    """Choose the tile sizes for a map, its channels and its dtype.

    With `one_launch` nothing is split, and a program takes less than 48 KB of shared memory.
    """

    def programs(tile_y: int, tile_x: int, block_n: int) -> int:
        return int(batch * triton.cdiv(height, tile_y) * triton.cdiv(width, tile_x) * triton.cdiv(c_out, block_n))

    # A program reads its pixels and its weights from the L2 cache for every tap, so large tiles pay: 8x16 pixels by 128
    # channels take 64 FLOPs a byte, 8x8 by 64 take 32. No tile has fewer than 64 pixels, which the warp groups of
    # Hopper need. float32 runs without tensor cores, and its registers would not hold larger tiles.
    single = dtype == torch.float32
    # With 16 input channels a step, weights of 32 channels would load 8 bytes a thread and not 16.
    least = 32 if c_in > 16 else 64
    channels = min(64 if single else 128, max(least, triton.next_power_of_2(c_out)))
    shapes = [] if single else [(8, 16, channels)]
    shapes += [(8, 8, min(64, channels)), (8, 8, least)]
    # What may not be split takes smaller tiles where the map is small, down to the last.
    tile_y, tile_x, block_n = next(
        (shape for shape in shapes if programs(*shape) >= ENOUGH_PROGRAMS or not one_launch), shapes[-1]
    )
    # float32 would spill with more, and a plugin's tiles must fit into its shared memory.
    block_k = min(32 if single or (one_launch and tile_x == 16) else 64, max(16, triton.next_power_of_2(c_in)))
    splits = 1
    # A part is at least half a block of channels at all taps, of which a dozen or more are live.
    most = 1 if one_launch else 2 * triton.cdiv(c_in, block_k)
    while splits < most and programs(tile_y, tile_x, block_n) * splits < ENOUGH_PROGRAMS:
        splits *= 2
    # Four warps would spill 16 bytes a thread in float32 on sm_90.
    warps = 8 if tile_x * block_n >= 2048 or single else 4
    return Tiles(tile_y=tile_y, tile_x=tile_x, block_n=block_n, block_k=block_k, splits=splits, warps=warps, stages=3)


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
        "SPLITS": tiles.splits,
    }


def sum_constants(c_out: int, tiles: Tiles) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel that adds up what was split."""
    return {"C_OUT": c_out, "SPLITS": tiles.splits, "BLOCK": SUM_BLOCK}


def program_count(batch: int, height: int, width: int, c_out: int, tiles: Tiles) -> int:
    """Count the programs of a launch."""
    pixels = triton.cdiv(height, tiles.tile_y) * triton.cdiv(width, tiles.tile_x)
    return int(batch * pixels * triton.cdiv(c_out, tiles.block_n) * tiles.splits)


def launch(x: Tensor, taps: Tensor, bias: Tensor, dilations: Sequence[int]) -> Tensor:
    """Compute `(B, H, W, C_out)` from contiguous x `(B, H, W, C_in)`, packed taps and the bias."""
    batch, height, width, c_in = x.shape
    c_out = taps.shape[2]
    tiles = choose_tiles(batch, height, width, c_in, c_out, x.dtype)
    out = x.new_empty(batch, height, width, c_out)
    sums = x.new_empty(batch, tiles.splits, height, width, c_out, dtype=torch.float32) if tiles.splits > 1 else out
    dilated_forward[(program_count(batch, height, width, c_out, tiles),)](
        x, taps, bias, height, width, sums,
        **constants(c_in, c_out, dilations, x.dtype, tiles), **compiler_options(tiles.warps, tiles.stages),
    )  # fmt: skip
    if tiles.splits > 1:
        # A kernel of its own adds up in one order, where atomic additions would change the last bits from run to run.
        dilated_sum[(batch * triton.cdiv(height * width * c_out, SUM_BLOCK),)](
            sums, bias, height, width, out, **sum_constants(c_out, tiles), **compiler_options(SUM_WARPS, 1)
        )
    return out
