"""The kernel calls of both paper presets, stage by stage."""

from dataclasses import dataclass

import torch

from bench.kernels.unfused import unfused_bytes
from kernels import dilated_fusion, window_attention
from kernels.aot.configurations import Configuration
from kernels.aot.configurations import attention_forward as attention_configuration
from kernels.aot.configurations import dilated_fusion as dilated_configuration
from kernels.cost_model import AttentionProblem, DilatedProblem

DILATIONS = (6, 12, 18)
HEAD_DIM = 32


@dataclass(frozen=True)
class Call:
    """One kernel call, its compiled configuration, and all main-loop iterations of its programs."""

    preset: str
    stage: int
    problem: AttentionProblem | DilatedProblem
    configuration: Configuration
    loop_iterations: int
    unfused_bytes: int


def calls(batch: int) -> list[Call]:
    """Shifted attention where the network shifts (stages 1 to 3), and the DFE, in fp16."""
    stages = [(size, stage) for size in (224, 512) for stage in (1, 2, 3, 4)]
    return [make(batch, size, stage) for make in (_attention, _dilated) for size, stage in stages]


def _attention(batch: int, image_size: int, stage: int) -> Call:
    size, channels, window = image_size >> stage, 32 << stage, image_size // 16
    heads, shift = channels // HEAD_DIM, window // 2 if size > window else 0
    problem = AttentionProblem(batch, size, size, heads, HEAD_DIM, window, shift, torch.float16)

    def reference(qkv: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return window_attention(qkv, table, num_heads=heads, window_size=window, shift_size=shift, impl="reference")

    unfused = unfused_bytes(reference, (batch, size, size, 3 * channels), ((2 * window - 1) ** 2, heads))
    configuration = attention_configuration(window, HEAD_DIM, shift > 0, torch.float16)
    return Call(f"paper-{image_size}", stage, problem, configuration, problem.programs * problem.iterations, unfused)


def _dilated(batch: int, image_size: int, stage: int) -> Call:
    size, channels = image_size >> stage, 32 << stage
    problem = DilatedProblem(batch, size, size, channels, channels, DILATIONS, torch.float16)

    def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return dilated_fusion(x, weight, bias, dilations=DILATIONS, impl="reference")

    weight = (len(DILATIONS), channels, channels, 3, 3)
    unfused = unfused_bytes(reference, (batch, size, size, channels), weight, (channels,))
    configuration = dilated_configuration(size, size, channels, channels, DILATIONS, torch.float16)
    return Call(f"paper-{image_size}", stage, problem, configuration, problem.main_loop_iterations, unfused)
