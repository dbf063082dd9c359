"""List the kernel calls of both paper presets, stage by stage."""

from dataclasses import dataclass

import torch

from bench.kernels.unfused import unfused_bytes
from kernels import dilated_fusion, window_attention
from kernels.aot.configurations import Configuration
from kernels.aot.configurations import attention_forward as attention_configuration
from kernels.aot.configurations import dilated_fusion as dilated_configuration
from kernels.cost_model import AttentionProblem, DilatedProblem
from model import PRESETS

# Both paper presets have the same.
DILATIONS = PRESETS["paper-224"].dilations
HEAD_DIM = PRESETS["paper-224"].head_dim


@dataclass(frozen=True, kw_only=True)
class Call:
    """Describe one kernel call.

    preset: name of the preset.
    stage: stage of the network, from 1.
    problem: sizes of the call, and its bytes and FLOPs.
    configuration: the compiled kernel.
    loop_iterations: main-loop iterations of all programs together.
    unfused_bytes: bytes that the reference moves as PyTorch runs it.
    """

    preset: str
    stage: int
    problem: AttentionProblem | DilatedProblem
    configuration: Configuration
    loop_iterations: int
    unfused_bytes: int


def calls(batch: int) -> list[Call]:
    """List the attention and the DFE of every stage, in fp16."""
    stages = [(size, stage) for size in (224, 512) for stage in (1, 2, 3, 4)]
    return [make(batch, size, stage) for make in (_attention, _dilated) for size, stage in stages]


def _attention(batch: int, image_size: int, stage: int) -> Call:
    size, channels, window = image_size >> stage, 32 << stage, image_size // 16
    # The second block of a stage: it shifts, except in stage 4, which holds a single window.
    heads, shift = channels // HEAD_DIM, window // 2 if size > window else 0
    problem = AttentionProblem(
        batch=batch,
        height=size,
        width=size,
        num_heads=heads,
        head_dim=HEAD_DIM,
        window_size=window,
        shift_size=shift,
        dtype=torch.float16,
    )

    def reference(qkv: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return window_attention(qkv, table, num_heads=heads, window_size=window, shift_size=shift, impl="reference")

    unfused = unfused_bytes(reference, (batch, size, size, 3 * channels), ((2 * window - 1) ** 2, heads))
    configuration = attention_configuration(window, HEAD_DIM, shift > 0, torch.float16)
    return Call(
        preset=f"paper-{image_size}",
        stage=stage,
        problem=problem,
        configuration=configuration,
        loop_iterations=problem.programs * problem.iterations,
        unfused_bytes=unfused,
    )


def _dilated(batch: int, image_size: int, stage: int) -> Call:
    size, channels = image_size >> stage, 32 << stage
    problem = DilatedProblem(
        batch=batch,
        height=size,
        width=size,
        c_in=channels,
        c_out=channels,
        dilations=DILATIONS,
        dtype=torch.float16,
    )

    def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return dilated_fusion(x, weight, bias, dilations=DILATIONS, impl="reference")

    weight = (len(DILATIONS), channels, channels, 3, 3)
    unfused = unfused_bytes(reference, (batch, size, size, channels), weight, (channels,))
    # A kernel that splits its sums has the loop of the one that does not, which large batches launch.
    (configuration,) = dilated_configuration((1024, size, size, channels), channels, DILATIONS, torch.float16)
    return Call(
        preset=f"paper-{image_size}",
        stage=stage,
        problem=problem,
        configuration=configuration,
        loop_iterations=problem.main_loop_iterations,
        unfused_bytes=unfused,
    )
