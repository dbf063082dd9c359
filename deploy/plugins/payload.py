"""The two kernels as TensorRT plugins: what TensorRT is handed for them.

A quickly deployable plugin with ahead-of-time code (TensorRT manual, "Python plugins"; TensorRT >= 10.9) gives the
builder PTX, launch geometry and scalar arguments; the engine then needs neither Python nor Triton.
`deploy.plugins.registration` registers the plugins; this module needs no TensorRT.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.aot.compile import compile_payload
from kernels.aot.configurations import Configuration, attention_forward, dilated_fusion
from kernels.attention import triton_launch as attention
from kernels.dilated import triton_launch as dilated

PTX_VERSIONS = {100: 86, 120: 87}  # the first instruction sets that know them
OLDEST_PTX_VERSION = 80  # of CUDA 12.0: a driver refuses PTX that is newer than itself


@dataclass(frozen=True)
class Payload:
    """A compiled kernel and its launch.

    entry: name of the kernel in `ptx`, whose parameters are the input pointers, `extras` (int32), the output pointer.
    grid: programs, one-dimensional.  threads: of a block.  shared_bytes: dynamic shared memory, below 48 KB.
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
    """`kernels.window_attention` with bias rows, on qkv of `shape` (B, H, W, 3C); capability as 80 or 120.

    Raises KernelInputError where the kernel does not fit into a plugin (see `kernels.aot.compile.compile_payload`).
    """
    batch, height, width, channels = shape
    configuration = attention_forward(window_size, channels // 3 // num_heads, shift_size > 0, dtype, scale)
    tiles = attention.choose_tiles(window_size, dtype)
    grid = attention.program_count(batch, height, width, num_heads, window_size, tiles)
    return _payload(configuration, (height, width, num_heads, shift_size), grid, capability)


def dilated_payload(
    shape: Sequence[int], c_out: int, dilations: Sequence[int], dtype: torch.dtype, capability: int
) -> Payload:
    """`kernels.dilated_fusion` with packed taps, on x of `shape` (B, H, W, C_in); capability and errors as above."""
    batch, height, width, c_in = shape
    configuration = dilated_fusion(height, width, c_in, c_out, dilations, dtype)
    grid = dilated.program_count(batch, height, width, c_out, dilated.choose_tiles(height, width, c_in))
    return _payload(configuration, (height, width), grid, capability)


def _payload(configuration: Configuration, extras: tuple[int, ...], grid: int, capability: int) -> Payload:
    ptx_version = PTX_VERSIONS.get(capability // 10 * 10, OLDEST_PTX_VERSION)
    made = compile_payload(configuration, capability, ptx_version)
    return Payload(made.entry, made.ptx, extras, grid, made.threads, made.shared_bytes)
