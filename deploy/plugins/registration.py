"""Register the two kernels as plugins with TensorRT, which importing this module needs.

Each plugin is three functions: what its output looks like, which types and layouts it takes, and its code.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import tensorrt.plugin as trtp
import torch

from deploy.plugins import ATTENTION, DILATED
from deploy.plugins.payload import Payload, attention_payload, dilated_payload

# TensorRT reads the annotations of the functions below as objects: none of them may be a string.
Code = tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]
DTYPES = {"HALF": torch.float16, "BF16": torch.bfloat16, "FLOAT": torch.float32}  # by TensorRT's names


@cache
def register_plugins() -> None:
    """Register both plugins, once in a process: TensorRT refuses a name that it already has."""
    for name, describe, types, code in (
        (ATTENTION, describe_attention, attention_types, attention_code),
        (DILATED, describe_dilated, dilated_types, dilated_code),
    ):
        trtp.register(name)(describe)
        trtp.autotune(name)(types)
        trtp.aot_impl(name)(code)


def describe_attention(
    qkv: trtp.TensorDesc, bias_rows: trtp.TensorDesc, window_size: int, shift_size: int, scale: float
) -> trtp.TensorDesc:
    """Map (B, H, W, 3C) to (B, H, W, C)."""
    batch, height, width, channels = qkv.shape_expr
    return trtp.from_shape_expr((batch, height, width, channels // 3), qkv.dtype)


def attention_types(
    qkv: trtp.TensorDesc, bias_rows: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc]
) -> list[trtp.AutoTuneCombination]:
    """Take row-major tensors of one type, with float32 bias rows."""
    return [trtp.AutoTuneCombination("FP32|FP16|BF16, FP32, FP32|FP16|BF16", "LINEAR")]


def attention_code(
    qkv: trtp.TensorDesc,
    bias_rows: trtp.TensorDesc,
    window_size: int,
    shift_size: int,
    scale: float,
    outputs: tuple[trtp.TensorDesc],
    tactic: int,
) -> Code:
    """Compile the attention kernel for the shapes of this layer."""
    # The bias rows are (heads, ...), and the node has no other record of the number of heads.
    dtype, heads = DTYPES[qkv.dtype.name], bias_rows.shape[0]
    return _code(attention_payload(tuple(qkv.shape), heads, window_size, shift_size, scale, dtype, _capability()))


def describe_dilated(
    x: trtp.TensorDesc, taps: trtp.TensorDesc, bias: trtp.TensorDesc, dilations: npt.NDArray[np.int64]
) -> trtp.TensorDesc:
    """Map (B, H, W, C_in) to (B, H, W, C_out)."""
    batch, height, width, _ = x.shape_expr
    return trtp.from_shape_expr((batch, height, width, taps.shape_expr[2]), x.dtype)


def dilated_types(
    x: trtp.TensorDesc, taps: trtp.TensorDesc, bias: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc]
) -> list[trtp.AutoTuneCombination]:
    """Take row-major tensors, all of one type."""
    return [trtp.AutoTuneCombination(", ".join(["FP32|FP16|BF16"] * 4), "LINEAR")]


def dilated_code(
    x: trtp.TensorDesc,
    taps: trtp.TensorDesc,
    bias: trtp.TensorDesc,
    dilations: npt.NDArray[np.int64],
    outputs: tuple[trtp.TensorDesc],
    tactic: int,
) -> Code:
    """Compile the dilated kernel for the shapes of this layer."""
    dtype, c_out = DTYPES[x.dtype.name], taps.shape[2]
    return _code(dilated_payload(tuple(x.shape), c_out, [int(one) for one in dilations], dtype, _capability()))


def _code(payload: Payload) -> Code:
    launch = trtp.KernelLaunchParams(grid_x=payload.grid, block_x=payload.threads, shared_mem=payload.shared_bytes)
    # TensorRT passes scalar arguments as 32-bit integers only, so the scale is compiled into the kernel.
    extras = trtp.SymIntExprs.from_tuple(tuple(trtp.SymInt32(value) for value in payload.extras))
    return payload.entry, payload.ptx, launch, extras


def _capability() -> int:
    """Return the compute capability of the GPU that builds, which is the one that will run the engine."""
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor
