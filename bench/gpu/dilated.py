"""Compare the dilated fusion with its peers: cuDNN's convolutions, launched one by one or compiled together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu.attention import MAX_AUTOTUNE
from bench.gpu.session import Open, Reference, Run, Session
from kernels import Impl, dilated_fusion, pack_taps

TABLE = "dilated"
DILATIONS = (6, 12, 18)  # the paper's


@dataclass(frozen=True, kw_only=True)
class DilatedCase:
    """Describe one call of the operation on a square map.

    name: what it is taken from.
    batch: images.
    size: side of the map in pixels.
    channels: in and out.
    dilations: one of each branch.
    dtype: of everything.
    """

    name: str
    batch: int
    size: int
    channels: int
    dilations: Sequence[int] = DILATIONS
    dtype: torch.dtype = torch.float16

    def __str__(self) -> str:
        return f"{self.name}, batch {self.batch}, {str(self.dtype).removeprefix('torch.')}"

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Draw x in image layout, the weights of all branches and the bias."""
        torch.manual_seed(0)
        x = torch.randn(self.batch, self.size, self.size, self.channels, device=device)
        weight = torch.randn(len(self.dilations), self.channels, self.channels, 3, 3, device=device)
        weight = weight / (9 * len(self.dilations) * self.channels) ** 0.5
        return x.to(self.dtype), weight.to(self.dtype), torch.randn(self.channels, device=device).to(self.dtype)

    def fuse(self, x: Tensor, weight: Tensor, bias: Tensor, impl: Impl, taps: Tensor | None = None) -> Tensor:
        """Run the operation of `kernels`."""
        return dilated_fusion(x, weight, bias, dilations=self.dilations, impl=impl, taps=taps)


def paper_case(image_size: int, stage: int, batch: int) -> DilatedCase:
    """Return a stage of a paper preset."""
    name = f"paper-{image_size} stage {stage}"
    return DilatedCase(name=name, batch=batch, size=image_size >> stage, channels=32 << stage)


# The most telling first: the first stages have the largest maps, the last the most weights.
CASES = (
    paper_case(224, 1, 8),
    paper_case(512, 4, 8),
    paper_case(224, 4, 1),
    paper_case(512, 1, 8),
    *(paper_case(size, stage, 8) for stage in (2, 3) for size in (224, 512)),
    paper_case(224, 4, 8),
    *(paper_case(224, stage, 1) for stage in (1, 2, 3)),
)

Inputs = tuple[Tensor, Tensor, Tensor]
Contenders = Callable[[DilatedCase, Inputs], Mapping[str, Open]]


def launched(session: Session, cases: tuple[DilatedCase, ...] = CASES) -> None:
    """Measure what needs no compiler: ours, the reference in eager PyTorch and cuDNN with everything channels-last."""
    _measure(session, cases, lambda case, inputs: {
        "ours": partial(_ours, case, *inputs),
        "eager": partial(_eager, case, *inputs),
        "cuDNN, channels-last": partial(_convolutions, case, *inputs, lambda function: function),
    })  # fmt: skip


def compiled(session: Session, cases: tuple[DilatedCase, ...] = CASES) -> None:
    """Measure the convolutions and their sum under torch.compile."""
    _measure(session, cases, lambda case, inputs: {
        "torch.compile": partial(_convolutions, case, *inputs, session.compile),
    })  # fmt: skip


def autotuned(session: Session, cases: tuple[DilatedCase, ...] = CASES) -> None:
    """Measure the convolutions and their sum under max-autotune, which also tries convolutions written in Triton."""
    tuned = partial(session.compile, mode=MAX_AUTOTUNE)
    _measure(session, cases, lambda case, inputs: {
        "max-autotune": partial(_convolutions, case, *inputs, tuned),
    })  # fmt: skip


def _measure(session: Session, cases: tuple[DilatedCase, ...], contenders: Contenders) -> None:
    # cuDNN then times its algorithms in the first call of each shape, which is not kept.
    torch.backends.cudnn.benchmark = True
    for case in cases:
        inputs = case.inputs(session.device)
        ends = sorted({0, case.batch - 1})
        with torch.no_grad():
            session.measure(
                TABLE,
                str(case),
                contenders(case, inputs),
                partial(_reference, case, inputs[0][ends], *inputs[1:]),
                pick=lambda results, ends=ends: [results[0][ends]],  # type: ignore[misc]
            )


def _reference(case: DilatedCase, x: Tensor, weight: Tensor, bias: Tensor) -> Reference:
    exact = case.fuse(x.double(), weight.double(), bias.double(), "reference")
    return Reference([exact], [case.fuse(x, weight, bias, "reference")])


def _ours(case: DilatedCase, x: Tensor, weight: Tensor, bias: Tensor) -> Run:
    taps = pack_taps(weight, case.dilations)
    return lambda: [case.fuse(x, weight, bias, "triton", taps)]


def _eager(case: DilatedCase, x: Tensor, weight: Tensor, bias: Tensor) -> Run:
    return lambda: [case.fuse(x, weight, bias, "reference")]


def _convolutions(
    case: DilatedCase, x: Tensor, weight: Tensor, bias: Tensor, compiler: Callable[..., Callable[..., Tensor]]
) -> Run:
    # The reference slices its weights in PyTorch's own layout, which cuDNN converts in each call. These are converted.
    branches = [branch.contiguous(memory_format=torch.channels_last) for branch in weight]

    def fuse(x: Tensor) -> Tensor:
        image = x.permute(0, 3, 1, 2)
        total = F.conv2d(image, branches[0], bias, padding=case.dilations[0], dilation=case.dilations[0])
        for branch, dilation in zip(branches[1:], case.dilations[1:], strict=True):
            total = total + F.conv2d(image, branch, padding=dilation, dilation=dilation)
        return total.relu().permute(0, 2, 3, 1)

    whole = compiler(fuse)
    return lambda: [whole(x)]
