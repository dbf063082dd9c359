"""Compare the Triton kernel of `dilated_fusion` with the reference in float64.

Every launch is fenced (`tests.kernels.fences`), so these tests also show that nothing outside a tensor is touched.
"""

from dataclasses import astuple, dataclass

import pytest
import torch
from torch import Tensor

from kernels import Impl, dilated_fusion
from kernels.dilated import triton_launch
from tests.kernels.accuracy import DTYPES, assert_as_exact_as_eager

pytestmark = pytest.mark.usefixtures("fences")


@dataclass(frozen=True, kw_only=True)
class FusionCase:
    """Describe one shape of the operation."""

    batch: int
    height: int
    width: int
    c_in: int
    c_out: int
    dilations: tuple[int, ...]

    def __str__(self) -> str:
        return "b{}-{}x{}-{}to{}-d{}".format(*astuple(self))

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Draw x, weight and bias."""
        torch.manual_seed(0)
        x = torch.randn(self.batch, self.height, self.width, self.c_in)
        weight = torch.randn(len(self.dilations), self.c_out, self.c_in, 3, 3) / (27 * self.c_in) ** 0.5
        return x.to(device, dtype), weight.to(device, dtype), torch.randn(self.c_out).to(device, dtype)


# The awkward ones: dilations beyond the map, equal dilations, partial blocks of channels, one pixel, one branch.
CASES = [
    FusionCase(batch=1, height=14, width=14, c_in=16, c_out=24, dilations=(6, 12, 18)),
    FusionCase(batch=2, height=5, width=7, c_in=20, c_out=16, dilations=(1, 2, 3)),
    FusionCase(batch=1, height=6, width=7, c_in=33, c_out=70, dilations=(2, 2, 9)),
    FusionCase(batch=3, height=3, width=5, c_in=96, c_out=17, dilations=(4,)),
    FusionCase(batch=1, height=1, width=1, c_in=16, c_out=16, dilations=(1, 2, 3, 4, 5)),
]


def check(case: FusionCase, dtype: torch.dtype, device: torch.device) -> None:
    """Hold the output to the accuracy rule."""
    inputs = case.inputs(dtype, device)

    def run(impl: Impl, *tensors: Tensor) -> Tensor:
        return dilated_fusion(*tensors, dilations=case.dilations, impl=impl)

    exact = run("reference", *(tensor.double() for tensor in inputs))
    assert_as_exact_as_eager([run("triton", *inputs)], [run("reference", *inputs)], [exact])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output(case: FusionCase, dtype: torch.dtype, device: torch.device) -> None:
    check(case, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_output_of_whole_sums(
    case: FusionCase, dtype: torch.dtype, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The maps above are so small that their sums are split.
    monkeypatch.setattr(triton_launch, "ENOUGH_PROGRAMS", 1)
    check(case, dtype, device)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "case",
    [
        FusionCase(batch=2, height=56, width=49, c_in=64, c_out=96, dilations=(6, 12, 18)),
        FusionCase(batch=1, height=20, width=30, c_in=64, c_out=64, dilations=(6, 12, 64)),
    ],
    ids=str,
)
def test_output_of_large_maps(case: FusionCase, dtype: torch.dtype, device: torch.device) -> None:
    check(case, dtype, device)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size, channels", [(112, 64), (56, 128), (28, 256), (14, 512)])
def test_the_stages_of_the_paper_on_a_gpu(size: int, channels: int, dtype: torch.dtype) -> None:
    check(
        FusionCase(batch=8, height=size, width=size, c_in=channels, c_out=channels, dilations=(6, 12, 18)),
        dtype,
        torch.device("cuda"),
    )
