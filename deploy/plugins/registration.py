"""Registers the plugins of `deploy.plugins.payload` with TensorRT. Imported where an engine with plugins is built.

No `from __future__ import annotations` here: TensorRT reads the annotations of these functions as objects.
"""

# mypy: disallow-untyped-decorators=False
# TensorRT's decorators have no types.

import numpy as np
import numpy.typing as npt
import tensorrt.plugin as trtp
import torch

from deploy.plugins.onnx_nodes import ATTENTION, DILATED
from deploy.plugins.payload import Payload, attention_payload, dilated_payload

DTYPES = {"HALF": torch.float16, "BF16": torch.bfloat16, "FLOAT": torch.float32}  # by TensorRT's names
Code = tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]


@trtp.register(ATTENTION)
def describe_attention(
    qkv: trtp.TensorDesc, bias_rows: trtp.TensorDesc, window_size: int, shift_size: int, scale: float
) -> trtp.TensorDesc:
    """(B, H, W, 3C) to (B, H, W, C)."""
    batch, height, width, channels = qkv.shape_expr
    return trtp.from_shape_expr((batch, height, width, channels // 3), qkv.dtype)


@trtp.autotune(ATTENTION)
def attention_types(
    qkv: trtp.TensorDesc, bias_rows: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc]
) -> list[trtp.AutoTuneCombination]:
    """Row-major tensors of one type; the bias rows are always float32."""
    return [trtp.AutoTuneCombination("FP32|FP16|BF16, FP32, FP32|FP16|BF16", "LINEAR")]


@trtp.aot_impl(ATTENTION)
def attention_code(
    qkv: trtp.TensorDesc,
    bias_rows: trtp.TensorDesc,
    window_size: int,
    shift_size: int,
    scale: float,
    outputs: tuple[trtp.TensorDesc],
    tactic: int,
) -> Code:
    dtype, heads = DTYPES[qkv.dtype.name], bias_rows.shape[0]
    return _code(attention_payload(tuple(qkv.shape), heads, window_size, shift_size, scale, dtype, _capability()))


@trtp.register(DILATED)
def describe_dilated(
    x: trtp.TensorDesc, taps: trtp.TensorDesc, bias: trtp.TensorDesc, dilations: npt.NDArray[np.int64]
) -> trtp.TensorDesc:
    """(B, H, W, C_in) to (B, H, W, C_out)."""
    batch, height, width, _ = x.shape_expr
    return trtp.from_shape_expr((batch, height, width, taps.shape_expr[2]), x.dtype)


@trtp.autotune(DILATED)
def dilated_types(
    x: trtp.TensorDesc, taps: trtp.TensorDesc, bias: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc]
) -> list[trtp.AutoTuneCombination]:
    """Row-major tensors, all of one type."""
    return [trtp.AutoTuneCombination(", ".join(["FP32|FP16|BF16"] * 4), "LINEAR")]


@trtp.aot_impl(DILATED)
def dilated_code(
    x: trtp.TensorDesc,
    taps: trtp.TensorDesc,
    bias: trtp.TensorDesc,
    dilations: npt.NDArray[np.int64],
    outputs: tuple[trtp.TensorDesc],
    tactic: int,
) -> Code:
    dtype, c_out = DTYPES[x.dtype.name], taps.shape[2]
    return _code(dilated_payload(tuple(x.shape), c_out, [int(one) for one in dilations], dtype, _capability()))


def _code(payload: Payload) -> Code:
    launch = trtp.KernelLaunchParams(grid_x=payload.grid, block_x=payload.threads, shared_mem=payload.shared_bytes)
    extras = trtp.SymIntExprs.from_tuple(tuple(trtp.SymInt32(value) for value in payload.extras))
    return payload.entry, payload.ptx, launch, extras


def _capability() -> int:
    """Of the GPU that builds, which is the one that will run the engine."""
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor
