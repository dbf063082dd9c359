"""Hold every kernel to the one accuracy rule.

Measured against float64, a kernel may err at most twice as much as eager PyTorch in the kernel's dtype.
"""

import torch
from torch import Tensor

FACTOR = 2.0
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def error(got: Tensor, target: Tensor) -> float:
    """Return the root mean square of the difference."""
    # Not the maximum, which is mostly luck over few values.
    return float((got.double() - target).square().mean().sqrt())


def assert_as_exact_as_eager(kernel: list[Tensor], eager: list[Tensor], exact: list[Tensor]) -> None:
    """Hold the results of a kernel to the rule: its output, then gradients where they are given."""
    names = ("output", "first gradient", "second gradient")[: len(exact)]
    for name, got, usual, target in zip(names, kernel, eager, exact, strict=True):
        assert got.shape == target.shape and got.dtype == usual.dtype
        bound = FACTOR * error(usual, target)
        assert error(got, target) <= bound, f"{name}: {error(got, target):.3e} against at most {bound:.3e}"
