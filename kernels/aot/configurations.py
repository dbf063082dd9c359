"""List the kernel configurations that the presets of the network launch, which `kernels.aot` compiles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kernels.attention import triton_backward, triton_bias_gradient, triton_forward
from kernels.attention import triton_bias_launch as bias_gradient
from kernels.attention import triton_launch as attention
from kernels.dilated import triton_forward as triton_kernel
from kernels.dilated import triton_launch as dilated
from kernels.dispatch import compiler_options

TRITON_TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
BACKWARD = ("attention_backward_query", "attention_backward_key_value", "attention_backward_bias")
_INT32 = dict.fromkeys(("batch", "images", "height", "width", "num_heads", "shift"), "i32")
# Softmax statistics, the bias rows and their gradient are float32 whatever the dtype of the tensors.
_FLOAT32 = frozenset({"mirrored_bias_ptr", "bias_grad_ptr", "row_max_ptr", "inverse_sum_ptr", "delta_ptr", "parts_ptr"})


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Describe a preset of `model.PRESETS` as far as the kernels depend on it.

    name: name of the preset.
    image_size: side of the input in pixels. The window has image_size / 16 tokens.
    channels: channels of the first stage, doubled by each of the next three.
    head_dim: channels of an attention head.
    trains: whether the kernels of training (bfloat16, float32 and backward) are compiled too.
    dilations: one of each DFE branch.
    """

    name: str
    image_size: int
    channels: int
    head_dim: int
    trains: bool
    dilations: tuple[int, ...] = (6, 12, 18)


# Copies, because this package imports no other of the project. tests/kernels/test_aot.py compares them with the model.
# Only the paper's sizes train in this list, which keeps the compilation of all kernels short. Engines are built in
# float16, and Triton compiles whatever else is launched at its first call.
PRESETS = (
    Preset(name="paper-224", image_size=224, channels=64, head_dim=32, trains=True),
    Preset(name="paper-512", image_size=512, channels=64, head_dim=32, trains=True),
    Preset(name="small", image_size=224, channels=32, head_dim=32, trains=False, dilations=(3, 5, 8)),
    Preset(name="tiny", image_size=128, channels=16, head_dim=16, trains=False, dilations=(2, 3, 5)),
    Preset(name="tiny-224", image_size=224, channels=16, head_dim=16, trains=False, dilations=(3, 5, 8)),
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
    shape: Sequence[int],
    c_out: int,
    dilations: Sequence[int],
    dtype: torch.dtype,
    serves: str = "",
    one_launch: bool = False,
) -> list[Configuration]:
    """Configure the kernels of `dilated_fusion`: one, and one more that adds up where the first one splits.

    Args:
        shape: (B, H, W, C_in), of which B, H and W only choose the tiles.
        c_out: output channels.
        dilations: of the branches.
        dtype: of all tensors.
        serves: the presets and stages that launch it.
        one_launch: whether it has to be one kernel, as in a plugin.
    """
    batch, height, width, c_in = shape
    tiles = dilated.choose_tiles(batch, height, width, c_in, c_out, dtype, one_launch)
    constants = dilated.constants(c_in, c_out, dilations, dtype, tiles)
    size = f"{tiles.tile_y}x{tiles.tile_x}x{tiles.block_n}x{tiles.block_k}"
    split = f"-split{tiles.splits}" if tiles.splits > 1 else ""
    first = _dilated(
        "dilated_fusion",
        f"c{c_in}-{c_out}-d{'-'.join(map(str, constants['DILATIONS']))}-{size}{split}",
        dtype,
        constants,
        compiler_options(tiles.warps, tiles.stages),
        serves,
    )
    if not split:
        return [first]
    options = compiler_options(dilated.SUM_WARPS, 1)
    second = _dilated("dilated_sum", f"c{c_out}{split}", dtype, dilated.sum_constants(c_out, tiles), options, serves)
    return [replace(first, types={**first.types, "out_ptr": "*fp32"}), second]


def shipped() -> list[Configuration]:
    """List what the presets launch, each configuration once."""
    unique: dict[str, Configuration] = {}
    for dtype in TRITON_TYPES:
        for preset in (preset for preset in PRESETS if preset.trains or dtype == torch.float16):
            for one in (*_attentions(preset, dtype), *_dfes(preset, dtype)):
                # Presets share kernels: "small" runs the attention of "paper-224".
                known = unique.get(one.name)
                unique[one.name] = replace(one, serves=f"{known.serves}, {one.serves}") if known else one
    return list(unique.values())


def _attentions(preset: Preset, dtype: torch.dtype) -> list[Configuration]:
    # Every stage has the same window. Stage 4 holds a single one, which is never shifted.
    blocks = ((False, "stages 1-3 first block, stage 4"), (True, "stages 1-3 second block"))
    window = preset.image_size // 16
    return [
        _attention(kernel, window, preset.head_dim, shifted, dtype, None, f"{preset.name} {where}")
        for shifted, where in blocks
        for kernel in ("attention_forward", *(BACKWARD if preset.trains else ()))
    ]


def _dfes(preset: Preset, dtype: torch.dtype) -> list[Configuration]:
    # Each stage halves the map and, after the first, doubles the channels.
    stages = [(stage, preset.image_size >> stage, preset.channels << stage - 1) for stage in (1, 2, 3, 4)]
    # Small batches split, large ones do not, and a plugin is always one launch. Engines are built in float16.
    forms = [(1, False, ""), (32, False, " in batches"), (1, True, " in plugins")]
    if dtype != torch.float16:
        forms.pop()
    return [
        one
        for stage, size, channels in stages
        for batch, one_launch, note in forms
        for one in dilated_fusion(
            (batch, size, size, channels),
            channels,
            preset.dilations,
            dtype,
            f"{preset.name} stage {stage}{note}",
            one_launch,
        )
    ]


def _attention(
    kernel: str, window_size: int, head_dim: int, shifted: bool, dtype: torch.dtype, scale: float | None, serves: str
) -> Configuration:
    scale = head_dim**-0.5 if scale is None else scale
    if kernel == "attention_backward_bias":
        # The sizes of the map only choose how many images a program takes, which is not compiled in.
        owned = bias_gradient.choose_tiles(1, window_size, 1, window_size, shifted, dtype)
        function, options = triton_bias_gradient.attention_backward_bias, compiler_options(owned.warps, owned.stages)
        constants = bias_gradient.constants(window_size, head_dim, shifted, scale, dtype, owned)
    else:
        backward = kernel != "attention_forward"
        tiles = attention.choose_tiles(window_size, dtype, backward)
        function = getattr(triton_backward if backward else triton_forward, kernel)
        options = compiler_options(tiles.warps, tiles.stages)
        constants = attention.constants(window_size, head_dim, shifted, scale, dtype, tiles)
        # The forward kernel needs the scale only as an exponent's factor.
        if backward:
            constants["SCALE"] = scale
    return Configuration(
        kernel=kernel,
        variant=f"w{window_size}-d{head_dim}{'-shifted' if shifted else ''}",
        dtype=dtype,
        function=function,
        types=_types(function, constants, dtype),
        constants=constants,
        options=options,
        serves=serves,
    )


def _dilated(
    kernel: str, variant: str, dtype: torch.dtype, constants: dict[str, Any], options: dict[str, Any], serves: str
) -> Configuration:
    function = triton_kernel.dilated_sum if kernel == "dilated_sum" else triton_kernel.dilated_forward
    return Configuration(
        kernel=kernel,
        variant=variant,
        dtype=dtype,
        function=function,
        types=_types(function, constants, dtype),
        constants=constants,
        options=options,
        serves=serves,
    )


def _types(function: Any, constants: dict[str, Any], dtype: torch.dtype) -> dict[str, str]:
    """Return the Triton type of each runtime argument, in the kernel's order."""
    # `bias_ptr` is attention's bias rows in one kernel and the convolution's bias, in the tensors' dtype, in the other.
    is_dilated = function in (triton_kernel.dilated_forward, triton_kernel.dilated_sum)
    float32 = _FLOAT32 if is_dilated else _FLOAT32 | {"bias_ptr"}
    pointers = {
        name: "*fp32" if name in float32 else f"*{TRITON_TYPES[dtype]}"
        for name in function.arg_names
        if name.endswith("_ptr")
    }
    return {name: {**pointers, **_INT32}[name] for name in function.arg_names if name not in constants}
