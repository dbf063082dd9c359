"""Prepare what TensorRT takes for each kernel: its PTX, its launch geometry, and its scalar arguments.

The kernels enter an engine as quickly deployable plugins with ahead-of-time code (TensorRT manual, "Python plugins",
TensorRT 10.9 or later). The engine keeps all of it and then needs neither Python nor Triton. Nothing here needs
TensorRT: `deploy.plugins.registration` hands the payloads over.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels import KernelInputError
from kernels.aot import compile_payload
from kernels.aot.configurations import Configuration, attention_forward, dilated_fusion
from kernels.attention import triton_launch as attention
from kernels.dilated import triton_launch as dilated

# A driver refuses PTX of an instruction set that is newer than itself, so each GPU gets the first set that knows it, or
# 8.0, of CUDA 12.0, where that is newer. With an older set, or for an unknown GPU, LLVM ends the whole process.
PTX_VERSIONS = {80: 80, 86: 80, 87: 80, 89: 80, 90: 80, 100: 86, 103: 88, 110: 90, 120: 87, 121: 88}


@dataclass(frozen=True, kw_only=True)
class Payload:
    """Hold a compiled kernel and its launch.

    entry: name of the kernel in `ptx`. Its parameters are the input pointers, `extras`, and the output pointer.
    ptx: assembly for the GPU that builds the engine.
    extras: int32 scalars.
    grid: number of programs, in one dimension.
    threads: of a block.
    shared_bytes: dynamic shared memory of a block, below 48 KB.
    """

    entry: str
    ptx: str
    extras: tuple[int, ...]
    grid: int
    threads: int
    shared_bytes: int


def attention_payload(
    shape: Sequence[int],
    num_heads: int,
    window_size: int,
    shift_size: int,
    scale: float,
    dtype: torch.dtype,
    capability: int,
) -> Payload:
    """Prepare `kernels.window_attention` with bias rows.

    Args:
        shape: (B, H, W, 3C) of qkv.
        num_heads: divides C.
        window_size: side of a window in tokens.
        shift_size: cyclic shift in tokens, 0 for none.
        scale: factor of q k^T.
        dtype: of qkv and of the output.
        capability: compute capability of the GPU, as 80 or 120.

    Raises:
        KernelInputError: the kernel does not fit into a plugin (see `kernels.aot.compile_payload`).
    """
    # The scale and whether there is a shift are compiled in. What else a layer has is passed at launch.
    batch, height, width, channels = shape
    configuration = attention_forward(window_size, channels // 3 // num_heads, shift_size > 0, dtype, scale)
    tiles = attention.choose_tiles(window_size, dtype)
    grid = attention.program_count(batch, height, width, num_heads, window_size, tiles)
    return _payload(configuration, (height, width, num_heads, shift_size), grid, capability)


def dilated_payload(
    shape: Sequence[int], c_out: int, dilations: Sequence[int], dtype: torch.dtype, capability: int
) -> Payload:
    """Prepare `kernels.dilated_fusion` with packed taps.

    Args:
        shape: (B, H, W, C_in) of x.
        c_out: output channels.
        dilations: of the branches.
        dtype: of all tensors.
        capability: compute capability of the GPU, as 80 or 120.

    Raises:
        KernelInputError: the kernel does not fit into a plugin (see `kernels.aot.compile_payload`).
    """
    batch, height, width, c_in = shape
    (configuration,) = dilated_fusion(shape, c_out, dilations, dtype, one_launch=True)
    tiles = dilated.choose_tiles(batch, height, width, c_in, c_out, dtype, one_launch=True)
    grid = dilated.program_count(batch, height, width, c_out, tiles)
    return _payload(configuration, (height, width), grid, capability)


def gpu_refusal(capability: int) -> str | None:
    """Return why the kernels cannot be compiled for a GPU, or None.

    Args:
        capability: its compute capability, as 80 or 120.
    """
    if capability in PTX_VERSIONS:
        return None
    known = ", ".join(f"{one // 10}.{one % 10}" for one in PTX_VERSIONS)
    return f"plugins need a GPU of compute capability {known}, got {capability // 10}.{capability % 10}"


def _payload(configuration: Configuration, extras: tuple[int, ...], grid: int, capability: int) -> Payload:
    if refusal := gpu_refusal(capability):
        raise KernelInputError(refusal)
    compiled = compile_payload(configuration, capability, PTX_VERSIONS[capability])
    return Payload(
        entry=compiled.entry,
        ptx=compiled.ptx,
        extras=extras,
        grid=grid,
        threads=compiled.threads,
        shared_bytes=compiled.shared_bytes,
    )
