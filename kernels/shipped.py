"""The kernel configurations that the paper's presets run: what `kernels.aot` compiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kernels.attention import triton_backward, triton_forward
from kernels.attention import triton_impl as attention
from kernels.dilated import triton_impl as dilated
from kernels.dilated import triton_kernel
from kernels.launch import compiler_options

TRITON_TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
_INT32 = {"height": "i32", "width": "i32", "num_heads": "i32", "shift": "i32"}


@dataclass(frozen=True)
class Configuration:
    """One kernel with all its compile-time arguments.

    types: Triton type of each runtime argument, in the kernel's order: inputs, sizes, outputs for the two forward
        kernels, which is the order TensorRT passes them in.
    serves: the paper presets and stages that launch it.
    """

    kernel: str
    variant: str
    dtype: torch.dtype
    function: Any
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]
    serves: str

    @property
    def name(self) -> str:
        return f"{self.kernel}-{self.variant}-{TRITON_TYPES[self.dtype]}"


def attention_forward(
    window_size: int, head_dim: int, shifted: bool, dtype: torch.dtype, scale: float | None = None, serves: str = ""
) -> Configuration:
    return _attention("attention_forward", window_size, head_dim, shifted, dtype, scale, serves)


def dilated_fusion(
    height: int, width: int, c_in: int, c_out: int, dilations: Sequence[int], dtype: torch.dtype, serves: str = ""
) -> Configuration:
    tiles = dilated.choose_tiles(height, width, c_in)
    function, constants = triton_kernel.dilated_forward, dilated.constants(c_in, c_out, dilations, dtype, tiles)
    return Configuration(
        "dilated_fusion",
        f"c{c_in}-{c_out}-d{'-'.join(map(str, constants['DILATIONS']))}-{tiles.tile_y}x{tiles.tile_x}",
        dtype,
        function,
        _types(function, constants, dtype),
        constants,
        compiler_options(tiles.warps, tiles.stages),
        serves,
    )


def shipped() -> list[Configuration]:
    """Both paper presets in both half precisions, each configuration once."""
    return [
        configuration
        for dtype in (torch.float16, torch.bfloat16)
        for configuration in (*_attentions(dtype), *_dfes(dtype))
    ]


def _attentions(dtype: torch.dtype) -> list[Configuration]:
    kernels = ("attention_forward", "attention_backward_query", "attention_backward_key_value")
    blocks = ((False, "stages 1-3 first block, stage 4"), (True, "stages 1-3 second block"))
    return [
        _attention(kernel, window, 32, shifted, dtype, None, f"{preset} {where}")
        for preset, window in (("paper-224", 14), ("paper-512", 32))
        for shifted, where in blocks
        for kernel in kernels
    ]


def _dfes(dtype: torch.dtype) -> list[Configuration]:
    stages: dict[str, list[tuple[str, Configuration]]] = {}
    for image_size in (224, 512):
        for stage in (1, 2, 3, 4):
            size, channels, where = image_size >> stage, 32 << stage, f"paper-{image_size} stage {stage}"
            one = dilated_fusion(size, size, channels, channels, (6, 12, 18), dtype)
            stages.setdefault(one.name, []).append((where, one))
    return [
        Configuration(**{**vars(same[0][1]), "serves": ", ".join(where for where, _ in same)})
        for same in stages.values()
    ]


def _attention(
    kernel: str, window_size: int, head_dim: int, shifted: bool, dtype: torch.dtype, scale: float | None, serves: str
) -> Configuration:
    backward = kernel != "attention_forward"
    tiles = attention.choose_tiles(window_size, dtype, backward)
    scale = head_dim**-0.5 if scale is None else scale
    constants = attention.constants(window_size, head_dim, shifted, scale, dtype, tiles)
    if backward:
        constants["SCALE"] = scale
    function = getattr(triton_backward if backward else triton_forward, kernel)
    return Configuration(
        kernel,
        f"w{window_size}-d{head_dim}{'-shifted' if shifted else ''}",
        dtype,
        function,
        _types(function, constants, dtype),
        constants,
        compiler_options(tiles.warps, tiles.stages),
        serves,
    )


def _types(function: Any, constants: dict[str, Any], dtype: torch.dtype) -> dict[str, str]:
    """Statistics and everything about attention's bias are float32, sizes int32, the rest has the tensors' dtype."""
    single = {"mirrored_bias_ptr", "bias_grad_ptr", "peak_ptr", "share_ptr", "delta_ptr"}
    if function is not triton_kernel.dilated_forward:
        single.add("bias_ptr")
    pointers = {
        name: "*fp32" if name in single else f"*{TRITON_TYPES[dtype]}"
        for name in function.arg_names
        if name.endswith("_ptr")
    }
    return {name: {**pointers, **_INT32}[name] for name in function.arg_names if name not in constants}
