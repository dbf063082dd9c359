"""Compare the Triton kernels of `window_attention` with the reference in float64, forward and backward.

Every launch is fenced (`tests.kernels.fences`), so these tests also show that nothing outside a tensor is touched.
"""

from dataclasses import astuple, dataclass

import pytest
import torch
from torch import Tensor

from kernels import Impl, window_attention
from tests.kernels.accuracy import DTYPES, assert_as_exact_as_eager

pytestmark = pytest.mark.usefixtures("fences")


@dataclass(frozen=True, kw_only=True)
class AttentionCase:
    """Describe one shape of the operation."""

    batch: int
    height: int
    width: int
    window: int
    shift: int
    heads: int
    head_dim: int

    def __str__(self) -> str:
        return "b{}-{}x{}-w{}-s{}-h{}-d{}".format(*astuple(self))

    def attend(self, qkv: Tensor, bias_table: Tensor, impl: Impl) -> Tensor:
        """Run the operation."""
        return window_attention(
            qkv, bias_table, num_heads=self.heads, window_size=self.window, shift_size=self.shift, impl=impl
        )

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Draw qkv, bias table and output gradient."""
        torch.manual_seed(0)
        channels = self.heads * self.head_dim
        qkv = torch.randn(self.batch, self.height, self.width, 3 * channels)
        table = torch.randn((2 * self.window - 1) ** 2, self.heads)
        grad = torch.randn(self.batch, self.height, self.width, channels)
        return qkv.to(device, dtype), table.to(device, dtype), grad.to(device, dtype)


# The awkward ones: H unlike W, a single window, odd windows, which leave padded columns in a tile.
SMALL = [
    AttentionCase(batch=2, height=8, width=12, window=4, shift=1, heads=1, head_dim=16),
    AttentionCase(batch=1, height=4, width=4, window=4, shift=0, heads=3, head_dim=64),
    AttentionCase(batch=1, height=7, width=14, window=7, shift=3, heads=1, head_dim=32),
    AttentionCase(batch=1, height=5, width=10, window=5, shift=1, heads=1, head_dim=16),
]
# Several tiles in a window: even and partial ones, and more than one block of queries.
EDGES = [
    AttentionCase(batch=3, height=8, width=8, window=8, shift=4, heads=1, head_dim=16),
    AttentionCase(batch=1, height=14, width=14, window=14, shift=7, heads=1, head_dim=32),
    AttentionCase(batch=1, height=16, width=16, window=16, shift=1, heads=1, head_dim=16),
    AttentionCase(batch=1, height=9, width=9, window=9, shift=0, heads=1, head_dim=64),
]
LARGE = [
    AttentionCase(batch=1, height=28, width=42, window=14, shift=7, heads=2, head_dim=32),
    AttentionCase(batch=1, height=32, width=64, window=32, shift=16, heads=1, head_dim=64),
    AttentionCase(batch=2, height=32, width=16, window=16, shift=8, heads=2, head_dim=64),
]


def gradients(case: AttentionCase, inputs: tuple[Tensor, ...], impl: Impl) -> list[Tensor]:
    """Return the output and its gradients in qkv and in the bias table."""
    qkv, table, grad = (tensor.clone() for tensor in inputs)
    out = case.attend(qkv.requires_grad_(), table.requires_grad_(), impl)
    return [out.detach(), *torch.autograd.grad(out, (qkv, table), grad)]


def check_backward(case: AttentionCase, dtype: torch.dtype, device: torch.device) -> None:
    """Hold output and gradients to the accuracy rule."""
    inputs = case.inputs(dtype, device)
    exact = gradients(case, tuple(tensor.double() for tensor in inputs), "reference")
    assert_as_exact_as_eager(gradients(case, inputs, "triton"), gradients(case, inputs, "reference"), exact)


def check_forward(case: AttentionCase, dtype: torch.dtype, device: torch.device) -> None:
    """Hold the output to the accuracy rule."""
    qkv, table, _ = case.inputs(dtype, device)
    exact = case.attend(qkv.double(), table.double(), "reference")
    assert_as_exact_as_eager([case.attend(qkv, table, "triton")], [case.attend(qkv, table, "reference")], [exact])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_output_and_gradients(case: AttentionCase, dtype: torch.dtype, device: torch.device) -> None:
    check_backward(case, dtype, device)


@pytest.mark.parametrize("case", EDGES, ids=str)
def test_output_and_gradients_of_wider_windows(case: AttentionCase, device: torch.device) -> None:
    check_backward(case, torch.float16, device)


def test_output_of_the_widest_window(device: torch.device) -> None:
    check_forward(
        AttentionCase(batch=1, height=32, width=32, window=32, shift=16, heads=1, head_dim=16), torch.bfloat16, device
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_output_and_gradients_of_large_maps(case: AttentionCase, dtype: torch.dtype, device: torch.device) -> None:
    check_backward(case, dtype, device)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "case",
    [
        AttentionCase(batch=8, height=112, width=112, window=14, shift=7, heads=2, head_dim=32),
        AttentionCase(batch=8, height=14, width=14, window=14, shift=0, heads=16, head_dim=32),
        AttentionCase(batch=2, height=256, width=256, window=32, shift=16, heads=2, head_dim=32),
    ],
    ids=str,
)
def test_the_stages_of_the_paper_on_a_gpu(case: AttentionCase, dtype: torch.dtype) -> None:
    check_backward(case, dtype, torch.device("cuda"))
