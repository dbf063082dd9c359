"""Model the bytes and FLOPs of a call by formula: what it needs at least, and what the kernels move and compute.

`tests/kernels/test_traffic.py` compares these formulas with every load, store and product of the kernels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.attention import triton_bias_launch as bias_gradient
from kernels.attention import triton_launch as attention
from kernels.attention.prepare import padded_size
from kernels.dilated import triton_launch as dilated
from kernels.dilated.prepare import distinct


def ceil_div(amount: int, size: int) -> int:
    """Divide and round up."""
    return -(-amount // size)


@dataclass(frozen=True, kw_only=True)
class AttentionProblem:
    """Describe one call of `window_attention`.

    batch: images.
    height: rows of the map in tokens.
    width: columns of the map in tokens.
    num_heads: attention heads.
    head_dim: channels of a head.
    window_size: side of a window in tokens.
    shift_size: cyclic shift in tokens.
    dtype: type of qkv and of the output.
    """

    batch: int
    height: int
    width: int
    num_heads: int
    head_dim: int
    window_size: int
    shift_size: int
    dtype: torch.dtype

    @property
    def _values(self) -> int:
        """Count the values of q. k, v and the output hold as many each."""
        return self.batch * self.height * self.width * self.num_heads * self.head_dim

    @property
    def _tiles(self) -> attention.Tiles:
        return attention.choose_tiles(self.window_size, self.dtype)

    @property
    def _blocks(self) -> int:
        """Count the blocks of queries that a window is divided into."""
        return ceil_div(self.window_size**2, self._tiles.block_m)

    @property
    def programs(self) -> int:
        """Count the programs of the launch."""
        return attention.program_count(
            self.batch, self.height, self.width, self.num_heads, self.window_size, self._tiles
        )

    @property
    def iterations(self) -> int:
        """Count the iterations of the main loop of one program."""
        return ceil_div(self.window_size, self._tiles.block_n // padded_size(self.window_size))

    @property
    def compulsory_bytes(self) -> int:
        """Count the bytes that any implementation moves: qkv read once and the output written once."""
        return 4 * self._values * self.dtype.itemsize

    @property
    def moved_bytes(self) -> int:
        """Count the bytes that the kernel loads and stores, without the bias rows."""
        # Every block of queries reads all keys and values of its window.
        return (2 + 2 * self._blocks) * self._values * self.dtype.itemsize

    @property
    def bias_bytes(self) -> int:
        """Count the bytes of the prepared bias rows."""
        # Not part of moved_bytes: all windows read the same rows, so they come from the caches.
        kinds = 3 if self.shift_size else 1
        rows = (2 * self.window_size - 1) * self.window_size
        return 4 * self.num_heads * kinds * rows * padded_size(self.window_size)

    @property
    def l2_bytes(self) -> int:
        """Count the bytes that leave or enter the L2 cache: all tensors, and each bias row once in a program."""
        # Loads of q, k and v bypass the L1 cache, which answers a program's repeated reads of a bias row. Not counted
        # are the rows of a second kind that windows at the edge of a shifted map read.
        tokens = self.window_size**2
        sizes = [min(self._tiles.block_m, tokens - first) for first in range(0, tokens, self._tiles.block_m)]
        rows = sum(size + (self.window_size - 1) * min(size, self.window_size) for size in sizes)
        windows = self.programs // self._blocks
        return self.moved_bytes + 4 * windows * rows * padded_size(self.window_size)

    @property
    def bias_gradient_values(self) -> int:
        """Count the float32 values of bias gradients that the backward pass stores. It adds none up in memory."""
        sizes = (self.batch, self.width, self.num_heads, self.window_size, self.shift_size > 0)
        return math.prod(bias_gradient.grid(*sizes, bias_gradient.choose_tiles(*sizes, self.dtype)))

    @property
    def flops(self) -> int:
        """Count the FLOPs of the two matrix products, without padding."""
        return 4 * self._values * self.window_size**2

    @property
    def executed_flops(self) -> int:
        """Count the FLOPs of the two matrix products, with the padding of the tiles."""
        tile = self._tiles.block_m * self._tiles.block_n
        return 4 * self.programs * self.iterations * tile * self.head_dim


@dataclass(frozen=True, kw_only=True)
class DilatedProblem:
    """Describe one call of `dilated_fusion`.

    batch: images.
    height: rows of the map in pixels.
    width: columns of the map in pixels.
    c_in: input channels.
    c_out: output channels.
    dilations: one of each branch.
    dtype: type of x, the taps and the output.
    """

    batch: int
    height: int
    width: int
    c_in: int
    c_out: int
    dilations: Sequence[int]
    dtype: torch.dtype

    @property
    def _tiles(self) -> dilated.Tiles:
        return dilated.choose_tiles(self.batch, self.height, self.width, self.c_in, self.c_out, self.dtype)

    @property
    def _offsets(self) -> list[tuple[int, int]]:
        """List the (dy, dx) of every tap."""
        steps = (-1, 0, 1)
        outer = [(y * d, x * d) for d in distinct(self.dilations) for y in steps for x in steps if (y, x) != (0, 0)]
        return [(0, 0), *outer]

    @property
    def _live_pixels(self) -> int:
        """Count the (pixel, tap) pairs that read the map."""
        pairs = (max(0, self.height - abs(dy)) * max(0, self.width - abs(dx)) for dy, dx in self._offsets)
        return self.batch * sum(pairs)

    @property
    def live_tiles(self) -> int:
        """Count the (tile, tap) pairs that the kernel computes: some pixel of the tile reads the map at this tap."""
        tile_y, tile_x = self._tiles.tile_y, self._tiles.tile_x

        def live(length: int, size: int, offset: int) -> int:
            # Along one axis. The last tile ends at the edge of the map, not at its own size.
            starts = range(0, length, size)
            return sum(min(first + size, length) - 1 + offset >= 0 and first + offset < length for first in starts)

        # A tile is a rectangle, so it is live where both of its axes are.
        pairs = (live(self.height, tile_y, dy) * live(self.width, tile_x, dx) for dy, dx in self._offsets)
        return self.batch * sum(pairs)

    @property
    def _channel_blocks(self) -> int:
        """Count the blocks of output channels."""
        return ceil_div(self.c_out, self._tiles.block_n)

    @property
    def programs(self) -> int:
        """Count the programs of the launch."""
        return dilated.program_count(self.batch, self.height, self.width, self.c_out, self._tiles)

    @property
    def main_loop_iterations(self) -> int:
        """Count the iterations of the main loops of all programs together."""
        return self.live_tiles * self._channel_blocks * ceil_div(self.c_in, self._tiles.block_k)

    @property
    def compulsory_bytes(self) -> int:
        """Count the bytes that any implementation moves: x, taps and bias read once, the output written once."""
        pixels = self.batch * self.height * self.width
        weights = len(self._offsets) * self.c_in * self.c_out
        return (pixels * (self.c_in + self.c_out) + weights) * self.dtype.itemsize + 4 * self.c_out

    @property
    def l2_bytes(self) -> int:
        """Count the bytes that the kernel loads and stores, all of them through the L2 cache."""
        # The loads bypass the L1 cache. x is read once per live tap and block of output channels, the weights of a live
        # tap once per tile.
        inputs = self._live_pixels * self.c_in * self._channel_blocks + self.live_tiles * self.c_in * self.c_out
        values, splits = self.batch * self.height * self.width * self.c_out, self._tiles.splits
        if splits > 1:
            # The parts are stored and loaded in float32. The second kernel loads the bias for every value.
            return (inputs + values) * self.dtype.itemsize + 8 * splits * values + 4 * values
        tiles = self.batch * ceil_div(self.height, self._tiles.tile_y) * ceil_div(self.width, self._tiles.tile_x)
        # The last term is the bias, counted as float32.
        return (inputs + values) * self.dtype.itemsize + 4 * tiles * self.c_out

    @property
    def flops(self) -> int:
        """Count the FLOPs of the products that do not meet zero padding."""
        return 2 * self._live_pixels * self.c_in * self.c_out

    @property
    def dense_flops(self) -> int:
        """Count the FLOPs of all taps at all pixels."""
        return 2 * len(self._offsets) * self.batch * self.height * self.width * self.c_in * self.c_out

    @property
    def written_flops(self) -> int:
        """Count the FLOPs of the module as written, with a 3x3 and a 1x1 convolution in each branch."""
        per_pixel = 9 * self.c_in * self.c_out + self.c_out**2
        return 2 * len(self.dilations) * per_pixel * self.batch * self.height * self.width

    @property
    def executed_flops(self) -> int:
        """Count the FLOPs that the kernel executes, with the padding of the tiles."""
        tiles = self._tiles
        return 2 * self.main_loop_iterations * tiles.tile_y * tiles.tile_x * tiles.block_n * tiles.block_k
