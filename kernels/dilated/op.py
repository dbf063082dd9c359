"""Register the Triton kernel as a custom operator with a fake, for torch.compile and torch.export."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.dispatch import on_device_of


@torch.library.custom_op("resformer::dilated_fusion", mutates_args=())
def dilated_op(x: Tensor, taps: Tensor, bias: Tensor, dilations: Sequence[int]) -> Tensor:
    """Map x `(B, H, W, C_in)` and packed taps to `(B, H, W, C_out)`.

    Allocates its result, the parts of sums that are split on small maps, and copies of inputs that are not contiguous.
    """
    # Imported here because defining and exporting the operator must not need Triton.
    from kernels.dilated.triton_launch import launch

    with on_device_of(x):
        return launch(x.contiguous(), taps, bias.contiguous(), dilations)


@dilated_op.register_fake
def _(x: Tensor, taps: Tensor, bias: Tensor, dilations: Sequence[int]) -> Tensor:
    batch, height, width, _ = x.shape
    return x.new_empty(batch, height, width, taps.shape[2])
