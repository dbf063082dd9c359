"""The kernel configurations that the presets run: what `kernels.aot` compiles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kernels.attention import triton_backward, triton_forward
from kernels.attention import triton_launch as attention
from kernels.dilated import triton_forward as triton_kernel
from kernels.dilated import triton_launch as dilated
from kernels.launch import compiler_options

TRITON_TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
BACKWARD = ("attention_backward_query", "attention_backward_key_value")
_INT32 = {"height": "i32", "width": "i32", "num_heads": "i32", "shift": "i32"}


@dataclass(frozen=True)
class Preset:
    """A preset of `model.PRESETS`: channels of its first stage, doubled by each of the next three.

    trains: what only training uses, bfloat16 and the backward kernels, is compiled ahead of time too. Engines are built
        in float16, and Triton compiles whatever else is launched at its first call.
    """

    name: str
    image_size: int
    channels: int
    head_dim: int
    trains: bool


PRESETS = (
    Preset("paper-224", 224, 64, 32, trains=True),
    Preset("paper-512", 512, 64, 32, trains=True),
    Preset("small", 224, 32, 32, trains=False),
    Preset("tiny", 128, 16, 16, trains=False),
)


@dataclass(frozen=True)
class Configuration:
    """One kernel with all its compile-time arguments.

    types: Triton type of each runtime argument, in the kernel's order: inputs, sizes, outputs for the two forward
        kernels, which is the order TensorRT passes them in.
    serves: the presets and stages that launch it.
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
    """What the presets launch in half precision, each configuration once."""
    unique: dict[str, Configuration] = {}
    for dtype in (torch.float16, torch.bfloat16):
        for preset in (preset for preset in PRESETS if preset.trains or dtype == torch.float16):
            for one in (*_attentions(preset, dtype), *_dfes(preset, dtype)):
                known = unique.get(one.name)
                unique[one.name] = replace(one, serves=f"{known.serves}, {one.serves}") if known else one
    return list(unique.values())


def _attentions(preset: Preset, dtype: torch.dtype) -> list[Configuration]:
    blocks = ((False, "stages 1-3 first block, stage 4"), (True, "stages 1-3 second block"))
    return [
        _attention(kernel, preset.image_size // 16, preset.head_dim, shifted, dtype, None, f"{preset.name} {where}")
        for shifted, where in blocks
        for kernel in ("attention_forward", *(BACKWARD if preset.trains else ()))
    ]


def _dfes(preset: Preset, dtype: torch.dtype) -> list[Configuration]:
    stages = [(stage, preset.image_size >> stage, preset.channels << stage - 1) for stage in (1, 2, 3, 4)]
    return [
        dilated_fusion(size, size, channels, channels, (6, 12, 18), dtype, f"{preset.name} stage {stage}")
        for stage, size, channels in stages
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
