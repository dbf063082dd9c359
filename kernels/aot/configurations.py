"""List the kernel configurations that the presets of the network launch, which `kernels.aot` compiles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kernels.attention import triton_backward, triton_forward
from kernels.attention import triton_launch as attention
from kernels.dilated import triton_forward as triton_kernel
from kernels.dilated import triton_launch as dilated
from kernels.dispatch import compiler_options

TRITON_TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
BACKWARD = ("attention_backward_query", "attention_backward_key_value")
_INT32 = {"height": "i32", "width": "i32", "num_heads": "i32", "shift": "i32"}
# Softmax statistics, the bias rows and their gradient are float32 whatever the dtype of the tensors.
_FLOAT32 = frozenset({"mirrored_bias_ptr", "bias_grad_ptr", "row_max_ptr", "inverse_sum_ptr", "delta_ptr"})


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Describe a preset of `model.PRESETS` as far as the kernels depend on it.

    name: name of the preset.
    image_size: side of the input in pixels. The window has image_size / 16 tokens.
    channels: channels of the first stage, doubled by each of the next three.
    head_dim: channels of an attention head.
    trains: whether the kernels of training (bfloat16 and backward) are compiled too.
    dilations: one of each DFE branch.
    """

    name: str
    image_size: int
    channels: int
    head_dim: int
    trains: bool
    dilations: tuple[int, ...] = (6, 12, 18)


# Copies, because this package imports no other of the project. tests/kernels/test_aot.py compares them with the model.
# Only the paper's sizes train in this list, which keeps the compilation of all kernels under five minutes. Engines are
# built in float16, and Triton compiles whatever else is launched at its first call.
PRESETS = (
    Preset(name="paper-224", image_size=224, channels=64, head_dim=32, trains=True),
    Preset(name="paper-512", image_size=512, channels=64, head_dim=32, trains=True),
    Preset(name="small", image_size=224, channels=32, head_dim=32, trains=False),
    Preset(name="tiny", image_size=128, channels=16, head_dim=16, trains=False),
)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Describe one kernel with all its compile-time arguments.

    kernel: name of the kernel.
    variant: name of the compile-time arguments, such as "w14-d32-shifted".
    dtype: type of the tensors.
    function: the `triton.jit` function.
    types: Triton type of each runtime argument, in the kernel's order. For the two forward kernels that is inputs,
        sizes, outputs, the order in which TensorRT passes them.
    constants: the compile-time arguments.
    options: the compiler's options.
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
        """Join kernel, variant and dtype, which together are unique."""
        return f"{self.kernel}-{self.variant}-{TRITON_TYPES[self.dtype]}"


def attention_forward(
    window_size: int, head_dim: int, shifted: bool, dtype: torch.dtype, scale: float | None = None
) -> Configuration:
    """Configure the forward kernel of `window_attention`, with the scale `head_dim ** -0.5` by default."""
    return _attention("attention_forward", window_size, head_dim, shifted, dtype, scale, "")


def dilated_fusion(
    height: int, width: int, c_in: int, c_out: int, dilations: Sequence[int], dtype: torch.dtype, serves: str = ""
) -> Configuration:
    """Configure the kernel of `dilated_fusion`. The map's size only chooses the tiles."""
    tiles = dilated.choose_tiles(height, width, c_in)
    function, constants = triton_kernel.dilated_forward, dilated.constants(c_in, c_out, dilations, dtype, tiles)
    return Configuration(
        kernel="dilated_fusion",
        variant=f"c{c_in}-{c_out}-d{'-'.join(map(str, constants['DILATIONS']))}-{tiles.tile_y}x{tiles.tile_x}",
        dtype=dtype,
        function=function,
        types=_types(function, constants, dtype),
        constants=constants,
        options=compiler_options(tiles.warps, tiles.stages),
        serves=serves,
    )


def shipped() -> list[Configuration]:
    """List what the presets launch in half precision, each configuration once."""
    unique: dict[str, Configuration] = {}
    for dtype in (torch.float16, torch.bfloat16):
        for preset in (preset for preset in PRESETS if preset.trains or dtype == torch.float16):
            for one in (*_attentions(preset, dtype), *_dfes(preset, dtype)):
                # Presets share kernels: "small" runs the attention of "paper-224".
                known = unique.get(one.name)
                unique[one.name] = replace(one, serves=f"{known.serves}, {one.serves}") if known else one
    return list(unique.values())


def _attentions(preset: Preset, dtype: torch.dtype) -> list[Configuration]:
    # Every stage has the same window. Stage 4 holds a single one, which is never shifted.
    blocks = ((False, "stages 1-3 first block, stage 4"), (True, "stages 1-3 second block"))
    return [
        _attention(kernel, preset.image_size // 16, preset.head_dim, shifted, dtype, None, f"{preset.name} {where}")
        for shifted, where in blocks
        for kernel in ("attention_forward", *(BACKWARD if preset.trains else ()))
    ]


def _dfes(preset: Preset, dtype: torch.dtype) -> list[Configuration]:
    # Each stage halves the map and, after the first, doubles the channels.
    stages = [(stage, preset.image_size >> stage, preset.channels << stage - 1) for stage in (1, 2, 3, 4)]
    return [
        dilated_fusion(size, size, channels, channels, preset.dilations, dtype, f"{preset.name} stage {stage}")
        for stage, size, channels in stages
    ]


def _attention(
    kernel: str, window_size: int, head_dim: int, shifted: bool, dtype: torch.dtype, scale: float | None, serves: str
) -> Configuration:
    backward = kernel != "attention_forward"
    tiles = attention.choose_tiles(window_size, dtype, backward)
    scale = head_dim**-0.5 if scale is None else scale
    constants = attention.constants(window_size, head_dim, shifted, scale, dtype, tiles)
    # The forward kernel needs the scale only as an exponent's factor.
    if backward:
        constants["SCALE"] = scale
    function = getattr(triton_backward if backward else triton_forward, kernel)
    return Configuration(
        kernel=kernel,
        variant=f"w{window_size}-d{head_dim}{'-shifted' if shifted else ''}",
        dtype=dtype,
        function=function,
        types=_types(function, constants, dtype),
        constants=constants,
        options=compiler_options(tiles.warps, tiles.stages),
        serves=serves,
    )


def _types(function: Any, constants: dict[str, Any], dtype: torch.dtype) -> dict[str, str]:
    """Return the Triton type of each runtime argument, in the kernel's order."""
    # `bias_ptr` is attention's bias rows in one kernel and the convolution's bias, in the tensors' dtype, in the other.
    is_dilated = function is triton_kernel.dilated_forward
    float32 = _FLOAT32 if is_dilated else _FLOAT32 | {"bias_ptr"}
    pointers = {
        name: "*fp32" if name in float32 else f"*{TRITON_TYPES[dtype]}"
        for name in function.arg_names
        if name.endswith("_ptr")
    }
    return {name: {**pointers, **_INT32}[name] for name in function.arg_names if name not in constants}
