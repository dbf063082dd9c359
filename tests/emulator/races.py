"""Detect races in shared memory: two threads at one place, one of them writing, and no barrier between them."""

from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
NEVER, SEVERAL = -1, -2
WARP = 32
MATRIX_UNIT = 2**15 - 1  # a thread of a warp of its own


class Races:
    """Remember who read and who wrote each word of several blocks.

    `barrier` orders all threads of a block, `warp_barrier` those of each warp. `found` counts the words at which an
    access raced.
    """

    def __init__(self, blocks: int, words: int) -> None:
        self.clock = self.last_barrier = self.last_warp_barrier = 0
        self.found = 0
        self.written_at, self.read_at = (np.full((blocks, words), NEVER, np.int32) for _ in range(2))
        # A reader's warp is kept beside the reader: several threads may read a word, of one warp or of several.
        self.writer, self.reader, self.reader_warp = (np.full((blocks, words), NEVER, np.int16) for _ in range(3))
        self.on_its_way, self.unfenced = (np.zeros((blocks, words), np.bool_) for _ in range(2))

    def select(self, chosen: Indices) -> "Races":
        """Return the record of some of the blocks, with nothing found yet."""
        part = Races(0, 0)
        part.clock, part.last_barrier, part.last_warp_barrier = self.clock, self.last_barrier, self.last_warp_barrier
        for name in ("written_at", "read_at", "writer", "reader", "reader_warp", "on_its_way", "unfenced"):
            setattr(part, name, getattr(self, name)[chosen])
        return part

    def barrier(self) -> None:
        """Order everything before against everything behind, for all threads of a block."""
        self.clock += 1
        self.last_barrier = self.last_warp_barrier = self.clock

    def warp_barrier(self) -> None:
        """Order everything before against everything behind, for the threads of each warp."""
        self.clock += 1
        self.last_warp_barrier = self.clock

    def read(self, block: Indices, thread: Indices, row: Indices, words: int) -> None:
        """Record that threads read rows of `words` words."""
        at, who = _spread(block, thread, row, words)
        self._count(self.on_its_way[at] | self._after_writer(at, who))
        # A reader since the last barrier stays on record, beside the new one.
        current = self.read_at[at] >= self.last_barrier
        for record, mine in ((self.reader, who), (self.reader_warp, who // WARP)):
            before = record[at]
            record[at] = mine
            # Several threads of this instruction may read one word, of which the last is on record now.
            mixed = (record[at] != mine) | (current & (before != mine))
            record[at[0][mixed], at[1][mixed]] = SEVERAL
        self.read_at[at] = self.clock

    def fence(self) -> None:
        """Let the matrix unit see what has been written."""
        self.unfenced[:] = False

    def read_outside_threads(self, block: Indices, row: Indices, words: int) -> None:
        """Record that the matrix unit reads rows, which have to be written, fenced and behind a barrier."""
        self.read(block, np.full_like(block, MATRIX_UNIT), row, words)
        self._count(self.unfenced[_spread(block, block, row, words)[0]])

    def write(self, block: Indices, thread: Indices, row: Indices, words: int) -> None:
        """Record that threads write rows of `words` words."""
        at, who = _spread(block, thread, row, words)
        after_reader = self._unordered(self.read_at[at], self.reader_warp[at] == who // WARP) & (self.reader[at] != who)
        self._count(self.on_its_way[at] | after_reader | self._after_writer(at, who))
        self.writer[at] = who
        self.written_at[at] = self.clock
        self.unfenced[at] = True

    def expect(self, block: Indices, thread: Indices, row: Indices, words: int) -> None:
        """Record that asynchronous stores begin."""
        self.write(block, thread, row, words)
        self.on_its_way[_spread(block, thread, row, words)[0]] = True

    def arrive(self, block: Indices, row: Indices, words: int) -> None:
        """Record that asynchronous stores end."""
        self.on_its_way[_spread(block, block, row, words)[0]] = False

    def _after_writer(self, at: tuple[Indices, Indices], who: Indices) -> Mask:
        writer = self.writer[at]
        foreign: Mask = writer != who
        return foreign & self._unordered(self.written_at[at], writer // WARP == who // WARP)

    def _unordered(self, when: Indices, same_warp: Mask) -> Mask:
        """Say which earlier accesses no barrier orders before now."""
        last = np.where(same_warp, self.last_warp_barrier, self.last_barrier)
        unordered: Mask = (when != NEVER) & (when >= last)
        return unordered

    def _count(self, raced: Mask) -> None:
        self.found += int(raced.sum())


def _spread(block: Indices, thread: Indices, row: Indices, words: int) -> tuple[tuple[Indices, Indices], Indices]:
    """Return the index of each word that rows of `words` words hold, and its thread."""
    place = (row[:, None] * words + np.arange(words)).ravel()
    return (np.repeat(block, words), place), np.repeat(thread, words).astype(np.int16)
