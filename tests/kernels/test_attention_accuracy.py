"""`window_attention`: the Triton kernels against the reference in float64, forward and backward.

Every launch is fenced (`tests.kernels.fences`), so these shapes also show that nothing outside a tensor is touched.
"""

from dataclasses import astuple, dataclass

import pytest
import torch
from torch import Tensor

from kernels import window_attention
from tests.kernels.accuracy import DTYPES, assert_as_exact_as_eager

pytestmark = pytest.mark.usefixtures("fences")


@dataclass(frozen=True)
class Case:
    batch: int
    height: int
    width: int
    window: int
    shift: int
    heads: int
    head_dim: int

    def __str__(self) -> str:
        return "b{}-{}x{}-w{}-s{}-h{}-d{}".format(*astuple(self))

    def attend(self, qkv: Tensor, bias_table: Tensor, impl: str) -> Tensor:
        return window_attention(
            qkv, bias_table, num_heads=self.heads, window_size=self.window, shift_size=self.shift, impl=impl
        )

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """qkv, table and output gradient."""
        torch.manual_seed(0)
        channels = self.heads * self.head_dim
        qkv = torch.randn(self.batch, self.height, self.width, 3 * channels)
        table = torch.randn((2 * self.window - 1) ** 2, self.heads)
        grad = torch.randn(self.batch, self.height, self.width, channels)
        return qkv.to(device, dtype), table.to(device, dtype), grad.to(device, dtype)


SMALL = [
    Case(2, 8, 12, 4, 1, 1, 16),
    Case(1, 4, 4, 4, 0, 3, 64),
    Case(1, 7, 14, 7, 3, 1, 32),
    Case(1, 5, 10, 5, 1, 1, 16),
]
EDGES = [
    Case(3, 8, 8, 8, 4, 1, 16),
    Case(1, 14, 14, 14, 7, 1, 32),
    Case(1, 16, 16, 16, 1, 1, 16),
    Case(1, 9, 9, 9, 0, 1, 64),
]
LARGE = [Case(1, 28, 42, 14, 7, 2, 32), Case(1, 32, 64, 32, 16, 1, 64), Case(2, 32, 16, 16, 8, 2, 64)]


def gradients(case: Case, inputs: tuple[Tensor, ...], impl: str) -> list[Tensor]:
    qkv, table, grad = (tensor.clone() for tensor in inputs)
    out = case.attend(qkv.requires_grad_(), table.requires_grad_(), impl)
    return [out.detach(), *torch.autograd.grad(out, (qkv, table), grad)]


def check_backward(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    inputs = case.inputs(dtype, device)
    exact = gradients(case, tuple(tensor.double() for tensor in inputs), "reference")
    assert_as_exact_as_eager(gradients(case, inputs, "triton"), gradients(case, inputs, "reference"), exact)


def check_forward(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    qkv, table, _ = case.inputs(dtype, device)
    exact = case.attend(qkv.double(), table.double(), "reference")
    assert_as_exact_as_eager([case.attend(qkv, table, "triton")], [case.attend(qkv, table, "reference")], [exact])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_output_and_gradients(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    check_backward(case, dtype, device)


@pytest.mark.parametrize("case", EDGES, ids=str)
def test_output_and_gradients_of_wider_windows(case: Case, device: torch.device) -> None:
    check_backward(case, torch.float16, device)


def test_output_of_the_widest_window(device: torch.device) -> None:
    check_forward(Case(1, 32, 32, 32, 16, 1, 16), torch.bfloat16, device)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_output_and_gradients_of_large_maps(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    check_backward(case, dtype, device)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "case",
    [Case(8, 112, 112, 14, 7, 2, 32), Case(8, 14, 14, 14, 0, 16, 32), Case(2, 256, 256, 32, 16, 2, 32)],
    ids=str,
)
def test_the_stages_of_the_paper_on_a_gpu(case: Case, dtype: torch.dtype) -> None:
    check_backward(case, dtype, torch.device("cuda"))
