"""The Triton kernel as a custom operator: schema and fake, so that compile and export accept it."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.library.custom_op("resformer::dilated_fusion", mutates_args=())
def dilated_op(x: Tensor, taps: Tensor, bias: Tensor, dilations: Sequence[int]) -> Tensor:
    """x `(B, H, W, C_in)` and packed taps to `(B, H, W, C_out)`; allocates its result and nothing else."""
    from kernels.dilated.triton_launch import launch  # Triton is not needed to define or export the operator

    return launch(x.contiguous(), taps, bias.contiguous(), dilations)


@dilated_op.register_fake
def _(x: Tensor, taps: Tensor, bias: Tensor, dilations: Sequence[int]) -> Tensor:
    batch, height, width, _ = x.shape
    return x.new_empty(batch, height, width, taps.shape[2])
