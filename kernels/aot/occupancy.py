"""Model how many warps an SM can hold at once, from NVIDIA's limits of each architecture (CUDA programming guide)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Multiprocessor:
    """Hold the limits of one SM.

    warps: resident warps.
    blocks: resident blocks.
    shared_bytes: bytes of shared memory.
    """

    warps: int
    blocks: int
    shared_bytes: int


MULTIPROCESSORS = {
    80: Multiprocessor(64, 32, 164 * 1024),
    86: Multiprocessor(48, 16, 100 * 1024),
    89: Multiprocessor(48, 24, 100 * 1024),
    90: Multiprocessor(64, 32, 228 * 1024),
    100: Multiprocessor(64, 32, 228 * 1024),
    120: Multiprocessor(48, 24, 100 * 1024),
}
_REGISTERS = 65_536  # of an SM, on all of these architectures
_RESERVED_SHARED = 1024  # bytes that the driver takes of each block


def occupancy(capability: int, registers: int, shared_bytes: int, warps: int) -> float:
    """Return the resident part of an SM's warps, from 0 to 1.

    Args:
        capability: compute capability as an integer, such as 80.
        registers: registers of a thread.
        shared_bytes: dynamic shared memory of a block.
        warps: warps of a block.
    """
    sm = MULTIPROCESSORS[capability]
    # Registers are allocated to a warp in units of 256.
    registers_per_warp = -(-registers * 32 // 256) * 256
    blocks = min(
        sm.blocks,
        sm.warps // warps,
        _REGISTERS // registers_per_warp // warps,
        sm.shared_bytes // (shared_bytes + _RESERVED_SHARED),
    )
    return blocks * warps / sm.warps
