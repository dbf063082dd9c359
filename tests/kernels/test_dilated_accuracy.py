"""`dilated_fusion`: the Triton kernel against the reference in float64; every launch is fenced."""

from dataclasses import astuple, dataclass

import pytest
import torch
from torch import Tensor

from kernels import dilated_fusion
from tests.kernels.accuracy import DTYPES, assert_as_exact_as_eager

pytestmark = pytest.mark.usefixtures("fences")


@dataclass(frozen=True)
class Case:
    batch: int
    height: int
    width: int
    c_in: int
    c_out: int
    dilations: tuple[int, ...]

    def __str__(self) -> str:
        return "b{}-{}x{}-{}to{}-d{}".format(*astuple(self))

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(0)
        x = torch.randn(self.batch, self.height, self.width, self.c_in)
        weight = torch.randn(len(self.dilations), self.c_out, self.c_in, 3, 3) / (27 * self.c_in) ** 0.5
        return x.to(device, dtype), weight.to(device, dtype), torch.randn(self.c_out).to(device, dtype)


CASES = [
    Case(1, 14, 14, 16, 24, (6, 12, 18)),
    Case(2, 5, 7, 20, 16, (1, 2, 3)),
    Case(1, 6, 7, 33, 70, (2, 2, 9)),
    Case(3, 3, 5, 96, 17, (4,)),
    Case(1, 1, 1, 16, 16, (1, 2, 3, 4, 5)),
]


def check(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    inputs = case.inputs(dtype, device)

    def run(impl: str, *tensors: Tensor) -> Tensor:
        return dilated_fusion(*tensors, dilations=case.dilations, impl=impl)

    exact = run("reference", *(tensor.double() for tensor in inputs))
    assert_as_exact_as_eager([run("triton", *inputs)], [run("reference", *inputs)], [exact])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    check(case, dtype, device)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [Case(2, 56, 49, 64, 96, (6, 12, 18)), Case(1, 20, 30, 64, 64, (6, 12, 64))], ids=str)
def test_output_of_large_maps(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    check(case, dtype, device)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size, channels", [(112, 64), (56, 128), (28, 256), (14, 512)])
def test_the_stages_of_the_paper_on_a_gpu(size: int, channels: int, dtype: torch.dtype) -> None:
    check(Case(8, size, size, channels, channels, (6, 12, 18)), dtype, torch.device("cuda"))
