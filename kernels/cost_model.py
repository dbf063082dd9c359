"""What a call must move and compute, and what the kernels move and compute: counted by formula.

Tests hold the formulas to `tests.helpers.traffic`, which counts in Triton's interpreter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.attention import triton_launch as attention
from kernels.attention.prepare import padded_size
from kernels.dilated import triton_launch as dilated
from kernels.dilated.prepare import distinct


def ceil_div(amount: int, size: int) -> int:
    return -(-amount // size)


@dataclass(frozen=True)
class AttentionProblem:
    """One call of `window_attention`."""

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
        """Of q, and as many of k, v and the output."""
        return self.batch * self.height * self.width * self.num_heads * self.head_dim

    @property
    def _tiles(self) -> attention.Tiles:
        return attention.choose_tiles(self.window_size, self.dtype)

    @property
    def _blocks(self) -> int:
        return ceil_div(self.window_size**2, self._tiles.block_m)

    @property
    def programs(self) -> int:
        return attention.program_count(
            self.batch, self.height, self.width, self.num_heads, self.window_size, self._tiles
        )

    @property
    def iterations(self) -> int:
        """Of the main loop of every program."""
        return ceil_div(self.window_size, self._tiles.block_n // padded_size(self.window_size))

    @property
    def compulsory_bytes(self) -> int:
        """qkv read once and the output written once."""
        return 4 * self._values * self.dtype.itemsize

    @property
    def moved_bytes(self) -> int:
        """q and the output once, k and v once a block of queries."""
        return (2 + 2 * self._blocks) * self._values * self.dtype.itemsize

    @property
    def bias_bytes(self) -> int:
        """Of the prepared rows, which stay in the caches."""
        kinds = 3 if self.shift_size else 1
        rows = (2 * self.window_size - 1) * self.window_size
        return 4 * self.num_heads * kinds * rows * padded_size(self.window_size)

    @property
    def flops(self) -> int:
        """Of the two products, without padding."""
        return 4 * self._values * self.window_size**2

    @property
    def executed_flops(self) -> int:
        tile = self._tiles.block_m * self._tiles.block_n
        return 4 * self.programs * self.iterations * tile * self.head_dim


@dataclass(frozen=True)
class DilatedProblem:
    """One call of `dilated_fusion`."""

    batch: int
    height: int
    width: int
    c_in: int
    c_out: int
    dilations: Sequence[int]
    dtype: torch.dtype

    @property
    def _tiles(self) -> dilated.Tiles:
        return dilated.choose_tiles(self.height, self.width, self.c_in)

    @property
    def _offsets(self) -> list[tuple[int, int]]:
        """(dy, dx) of every tap."""
        steps = (-1, 0, 1)
        outer = [(y * d, x * d) for d in distinct(self.dilations) for y in steps for x in steps if (y, x) != (0, 0)]
        return [(0, 0), *outer]

    @property
    def _live_pixels(self) -> int:
        """(pixel, tap) pairs that read the map."""
        pairs = (max(0, self.height - abs(dy)) * max(0, self.width - abs(dx)) for dy, dx in self._offsets)
        return self.batch * sum(pairs)

    @property
    def live_tiles(self) -> int:
        """(tile, tap) pairs of which some pixel reads the map: those that the kernel computes."""
        tile_y, tile_x = self._tiles.tile_y, self._tiles.tile_x

        def live(length: int, size: int, offset: int) -> int:
            starts = range(0, length, size)
            return sum(min(first + size, length) - 1 + offset >= 0 and first + offset < length for first in starts)

        pairs = (live(self.height, tile_y, dy) * live(self.width, tile_x, dx) for dy, dx in self._offsets)
        return self.batch * sum(pairs)

    @property
    def _channel_blocks(self) -> int:
        return ceil_div(self.c_out, self._tiles.block_n)

    @property
    def main_loop_iterations(self) -> int:
        """Of all programs together."""
        return self.live_tiles * self._channel_blocks * ceil_div(self.c_in, self._tiles.block_k)

    @property
    def compulsory_bytes(self) -> int:
        """x, taps and bias read once, the output written once."""
        pixels = self.batch * self.height * self.width
        weights = len(self._offsets) * self.c_in * self.c_out
        return (pixels * (self.c_in + self.c_out) + weights) * self.dtype.itemsize + 4 * self.c_out

    @property
    def moved_bytes(self) -> int:
        """x once a live tap and block of output channels, taps once a tile; mostly from the caches."""
        inputs = self._live_pixels * self.c_in * self._channel_blocks + self.live_tiles * self.c_in * self.c_out
        tiles = self.batch * ceil_div(self.height, self._tiles.tile_y) * ceil_div(self.width, self._tiles.tile_x)
        outputs = self.batch * self.height * self.width * self.c_out
        return (inputs + outputs) * self.dtype.itemsize + 4 * tiles * self.c_out

    @property
    def flops(self) -> int:
        """Of the products that do not meet padding."""
        return 2 * self._live_pixels * self.c_in * self.c_out

    @property
    def dense_flops(self) -> int:
        """Of all taps at all pixels."""
        return 2 * len(self._offsets) * self.batch * self.height * self.width * self.c_in * self.c_out

    @property
    def written_flops(self) -> int:
        """Of the module as written: a 3x3 and a 1x1 convolution a branch."""
        a_branch = 9 * self.c_in * self.c_out + self.c_out**2
        return 2 * len(self.dilations) * a_branch * self.batch * self.height * self.width

    @property
    def executed_flops(self) -> int:
        tiles = self._tiles
        return 2 * self.main_loop_iterations * tiles.tile_y * tiles.tile_x * tiles.block_n * tiles.block_k
