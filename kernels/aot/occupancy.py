"""Warps that an SM can hold at once, modelled from NVIDIA's limits of each architecture (CUDA programming guide)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of one SM: warps, blocks, bytes of shared memory; every one has 65,536 registers."""

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
_REGISTERS = 65_536
_RESERVED_SHARED = 1024  # bytes that the driver takes of each block


def occupancy(capability: int, registers: int, shared_bytes: int, warps: int) -> float:
    """Resident share of an SM's warps, 0 to 1, for a block of `warps` warps."""
    sm = MULTIPROCESSORS[capability]
    registers_a_warp = -(-registers * 32 // 256) * 256
    blocks = min(
        sm.blocks,
        sm.warps // warps,
        _REGISTERS // registers_a_warp // warps,
        sm.shared_bytes // (shared_bytes + _RESERVED_SHARED),
    )
    return blocks * warps / sm.warps
