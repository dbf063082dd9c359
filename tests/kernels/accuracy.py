"""The one accuracy rule: against float64, a kernel may err at most twice as much as eager PyTorch in its dtype."""

import torch
from torch import Tensor

FACTOR = 2.0
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def error(got: Tensor, exact: Tensor) -> float:
    """Root mean square: a maximum over few values is mostly luck."""
    return float((got.double() - exact).square().mean().sqrt())


def assert_as_exact_as_eager(kernel: list[Tensor], eager: list[Tensor], exact: list[Tensor]) -> None:
    names = ("output", "first gradient", "second gradient")[: len(exact)]
    for name, got, usual, truth in zip(names, kernel, eager, exact, strict=True):
        assert got.shape == truth.shape and got.dtype == usual.dtype
        bound = FACTOR * error(usual, truth)
        assert error(got, truth) <= bound, f"{name}: {error(got, truth):.3e} against at most {bound:.3e}"
