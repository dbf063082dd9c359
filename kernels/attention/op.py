"""Register the Triton kernels as custom operators with fakes and autograd, for torch.compile and torch.export."""

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import on_device_of


@torch.library.custom_op("resformer::window_attention", mutates_args=())
def attention_op(qkv: Tensor, bias_rows: Tensor, window_size: int, shift_size: int, scale: float) -> Tensor:
    """Map qkv `(B, H, W, 3C)` and prepared bias rows to `(B, H, W, C)`.

    Allocates its result and nothing else, apart from a copy of a qkv that is not contiguous.
    """
    # Imported here because defining and exporting the operator must not need Triton.
    from kernels.attention.triton_launch import launch_forward

    with on_device_of(qkv):
        return launch_forward(qkv.contiguous(), bias_rows, window_size, shift_size, scale)


@attention_op.register_fake
def _(qkv: Tensor, bias_rows: Tensor, window_size: int, shift_size: int, scale: float) -> Tensor:
    batch, height, width, channels = qkv.shape
    return qkv.new_empty(batch, height, width, channels // 3)


# A second operator, so that torch.compile can trace the backward pass, which it does with fake tensors.
@torch.library.custom_op("resformer::window_attention_backward", mutates_args=())
def attention_backward_op(
    grad: Tensor, qkv: Tensor, bias_rows: Tensor, out: Tensor, window_size: int, shift_size: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of qkv and of the bias rows."""
    from kernels.attention.triton_launch import launch_backward

    with on_device_of(qkv):
        return launch_backward(grad.contiguous(), qkv.contiguous(), bias_rows, out, window_size, shift_size, scale)


@attention_backward_op.register_fake
def _(
    grad: Tensor, qkv: Tensor, bias_rows: Tensor, out: Tensor, window_size: int, shift_size: int, scale: float
) -> tuple[Tensor, Tensor]:
    return qkv.new_empty(qkv.shape), torch.empty_like(bias_rows)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, bias_rows, *ctx.sizes = inputs
    # The scores are not saved: the backward kernels compute them again from these three.
    ctx.save_for_backward(qkv, bias_rows, output)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
    qkv_grad, bias_grad = attention_backward_op(grad, *ctx.saved_tensors, *ctx.sizes)
    return qkv_grad, bias_grad, None, None, None


attention_op.register_autograd(_differentiate, setup_context=_save)
