"""Hold the memories that a kernel reaches, and fail at what a GPU would not do or would not do twice alike."""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.emulator.errors import AccessError
from tests.emulator.races import Races

Bytes = npt.NDArray[np.uint8]
Bits = npt.NDArray[Any]
UNWRITTEN = 0xCD


@dataclass
class Buffer:
    """Hold a piece of this process' memory that kernels may touch.

    start: address of its first byte.
    content: its bytes, shared with their owner.
    loaded: the bytes that a launch has loaded.
    stored: the bytes that a launch has stored.
    """

    start: int
    content: Bytes
    loaded: npt.NDArray[np.bool_]
    stored: npt.NDArray[np.bool_]


class GlobalMemory:
    """Hold the buffers of a launch, and count the bytes that it stores twice or both loads and stores.

    Nothing orders such accesses of different blocks, and within one thread our kernels have no use for them.
    """

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.starts = np.zeros(0, np.uint64)
        self.ends = np.zeros(0, np.uint64)
        self.races = 0

    def add(self, start: int, size: int) -> None:
        """Let kernels touch `size` bytes of this process from `start` on."""
        if start % 16:
            raise AccessError(f"a buffer must start at a multiple of 16 bytes, got {start:#x}")
        content = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(start))
        self.buffers.append(Buffer(start, content, np.zeros(size, np.bool_), np.zeros(size, np.bool_)))
        self.buffers.sort(key=lambda one: one.start)
        self.starts = np.array([one.start for one in self.buffers], np.uint64)
        self.ends = np.array([one.start + len(one.content) for one in self.buffers], np.uint64)

    def load(self, addresses: Bits, size: int) -> Bytes:
        """Return the `size` bytes at each address."""
        out = np.empty((len(addresses), size), np.uint8)
        for buffer, here, rows in self._places(addresses, size):
            out[here] = _rows(buffer.content, size)[rows]
            self.races += int(_rows(buffer.stored, size)[rows].sum())
            _rows(buffer.loaded, size)[rows] = True
        return out

    def store(self, addresses: Bits, data: Bytes) -> None:
        """Store a row of bytes at each address."""
        size = data.shape[1]
        for buffer, here, rows in self._places(addresses, size):
            _rows(buffer.content, size)[rows] = data[here]
            self.races += int((_rows(buffer.stored, size) | _rows(buffer.loaded, size))[rows].sum())
            self.races += size * (len(rows) - len(np.unique(rows)))
            _rows(buffer.stored, size)[rows] = True

    def add_float32(self, addresses: Bits, values: Bits) -> None:
        """Add a row of values to the float32 at each address, one after the other."""
        size = 4 * values.shape[1]
        for buffer, here, rows in self._places(addresses, size):
            self.races += int((_rows(buffer.stored, size) | _rows(buffer.loaded, size))[rows].sum())
            np.add.at(_rows(buffer.content, size).view(np.float32), rows, values[here])

    def _places(self, addresses: Bits, size: int) -> list[tuple[Buffer, Bits, Bits]]:
        """Return each buffer that is touched, which addresses touch it, and their rows of `size` bytes in it."""
        which = np.searchsorted(self.starts, addresses, "right").astype(np.int64) - 1
        outside = which < 0
        outside |= addresses + np.uint64(size) > self.ends[which] if len(self.ends) else True
        if outside.any():
            raise AccessError(
                f"{outside.sum()} accesses outside of every buffer, the first at {addresses[outside][0]:#x}"
            )
        if (addresses % np.uint64(size)).any():
            raise AccessError(f"an address that is no multiple of the {size} bytes accessed")
        found = []
        for number in np.unique(which):
            here = np.nonzero(which == number)[0]
            offsets = addresses[here] - self.starts[number]
            found.append((self.buffers[number], here, (offsets // np.uint64(size)).astype(np.int64)))
        return found


def _rows(content: Bits, size: int) -> Bits:
    """View bytes as rows of one access each. Buffers start at multiples of 16, so every aligned access is a row."""
    return content[: len(content) // size * size].reshape(-1, size)


class SharedMemory:
    """Hold the shared memory of several blocks, with the detector of races between their threads.

    grain: bytes of the smallest access, which the detector tells apart.
    """

    def __init__(self, blocks: int, size: int, grain: int) -> None:
        self.size, self.grain = size, grain
        # Whole rows of 16 bytes, so that `_touch` can view it as rows of any access.
        self.content = np.full((blocks, -(-size // 16) * 16), UNWRITTEN, np.uint8)
        self.races = Races(blocks, self.content.shape[1] // grain)

    def select(self, chosen: Bits) -> "SharedMemory":
        """Return the memory of some of the blocks."""
        part = SharedMemory.__new__(SharedMemory)
        part.size, part.grain = self.size, self.grain
        part.content, part.races = self.content[chosen], self.races.select(chosen)
        return part

    def load(self, addresses: Bits, size: int, mask: Bits) -> Bytes:
        """Return `(blocks, threads, size)` bytes, with zeros where the mask is off."""
        block, thread, row = self._touch(addresses, size, mask)
        self.races.read(block, thread, row, size // self.grain)
        out = np.zeros((*mask.shape, size), np.uint8)
        out[block, thread] = self._rows(size)[block, row]
        return out

    def gather(self, addresses: Bits) -> Bytes:
        """Return the 16 bytes at each of `(blocks, count)` addresses, read by no thread but by the matrix unit."""
        block, _, row = self._touch(addresses, 16, np.ones(addresses.shape, np.bool_))
        self.races.read_outside_threads(block, row, 16 // self.grain)
        found: Bytes = self._rows(16)[block, row].reshape(*addresses.shape, 16)
        return found

    def store(self, addresses: Bits, data: Bytes, mask: Bits) -> None:
        """Store `(blocks, threads, size)` bytes where the mask is on."""
        size = data.shape[-1]
        block, thread, row = self._touch(addresses, size, mask)
        self.races.write(block, thread, row, size // self.grain)
        given = data[block, thread]
        self._rows(size)[block, row] = given
        # Triton lets threads that hold copies of a value store it all together. Different values are a race.
        self.races.found += int((self._rows(size)[block, row] != given).any(-1).sum())

    def expect(self, addresses: Bits, size: int, mask: Bits) -> None:
        """Begin an asynchronous store: until it arrives, nobody may touch its words."""
        block, thread, row = self._touch(addresses, size, mask)
        self.races.expect(block, thread, row, size // self.grain)

    def arrive(self, addresses: Bits, data: Bytes, mask: Bits) -> None:
        """End an asynchronous store, which becomes visible to the thread that began it."""
        block, _, row = self._touch(addresses, data.shape[-1], mask)
        self.races.arrive(block, row, data.shape[-1] // self.grain)
        self.store(addresses, data, mask)

    def _rows(self, size: int) -> Bits:
        return self.content.reshape(len(self.content), -1, size)

    def _touch(self, addresses: Bits, size: int, mask: Bits) -> tuple[Bits, Bits, Bits]:
        """Return block, thread and row of each access."""
        block, thread = np.nonzero(mask)
        touched = addresses[block, thread].astype(np.int64)
        if (touched + size > self.size).any():
            raise AccessError(f"an access of {size} bytes at {touched.max()} in {self.size} bytes of shared memory")
        if (touched % size).any():
            raise AccessError(f"a shared address that is no multiple of the {size} bytes accessed")
        return block, thread, touched // size
