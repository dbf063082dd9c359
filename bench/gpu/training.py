"""Compare training steps: forward, loss, backward and AdamW, in bfloat16 autocast as the trainer takes them.

The loss is cross-entropy alone, because the trainer's Dice comes from MONAI. It is a thousandth of a step's work.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.gpu.networks import channels_last
from bench.gpu.session import Reference, Run, Session
from kernels import Impl
from model import PRESETS, ModelConfig, MultiTaskResFormer, build_model
from model.inference import with_attention

TABLE = "training"
LEARNING_RATE = 1e-4
GRADIENT_NORM = 1.0  # the trainer's
AS_LAUNCHED = {"": False}  # the trainer reads the loss of each step, which no graph can


@dataclass(frozen=True, kw_only=True)
class TrainingCase:
    """Describe the steps of one network.

    name: of the preset.
    config: shape of the network.
    batch: images of a step.
    dtype: of autocast. Without one it is float32.
    """

    name: str
    config: ModelConfig
    batch: int
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        return f"{self.name}, batch {self.batch}, {str(self.dtype).removeprefix('torch.')}"


CASES = tuple(
    TrainingCase(name=name, config=PRESETS[name], batch=batch) for name, batch in (("paper-224", 16), ("paper-512", 4))
)


def launched(session: Session, cases: tuple[TrainingCase, ...] = CASES) -> None:
    """Measure steps with our attention, forward and backward, and with eager PyTorch's."""
    for case in cases:
        contenders: dict[str, Impl] = {"ours": session.ours, "eager": "reference"}
        _measure(session, case, contenders, None)


def compiled(session: Session, cases: tuple[TrainingCase, ...] = CASES) -> None:
    """Measure steps of the compiled network, with our attention in it and without."""
    for case in cases:
        contenders: dict[str, Impl] = {"ours, torch.compile": session.ours, "torch.compile": "reference"}
        _measure(session, case, contenders, session.compile)


Compiler = Callable[..., Callable[..., Any]]


def _measure(session: Session, case: TrainingCase, contenders: dict[str, Impl], compiler: Compiler | None) -> None:
    if session.is_over:
        session.leave_out(TABLE, str(case), contenders)
        return
    torch.manual_seed(0)
    # Without drop-path, whose random numbers would be another contender's.
    network = build_model(replace(case.config, drop_path=0.0)).to(session.device)
    size = case.config.image_size
    image = torch.randn(1, 3, size, size, device=session.device)
    # One image repeated has the same statistics, loss and gradients as that image alone, which float64 has room for.
    images = image.repeat(case.batch, 1, 1, 1).contiguous(memory_format=torch.channels_last)
    session.measure(
        TABLE,
        str(case),
        {
            name: partial(_steps, with_attention(network, impl), images, case.dtype, compiler)
            for name, impl in contenders.items()
        },
        partial(_reference, network, image, case.dtype),
        pick=_as_vector,
        ways=AS_LAUNCHED,
    )


def _as_vector(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Join the gradients, because those of a few values err by luck."""
    return [torch.cat([one.flatten() for one in gradients])]


def _steps(network: nn.Module, images: Tensor, dtype: torch.dtype, compiler: Compiler | None) -> Run:
    """Return what takes one training step and returns its gradients."""
    network = channels_last(network.train())
    forward = compiler(network) if compiler else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)

    def step() -> list[Tensor]:
        gradients = _backward(network, forward, images, dtype)
        optimizer.step()
        return gradients

    return step


def _reference(network: MultiTaskResFormer, image: Tensor, dtype: torch.dtype) -> Reference:
    exact, eager = with_attention(network, "reference").double(), with_attention(network, "reference")
    return Reference(
        _as_vector(_backward(exact, exact, image.double(), torch.float64)),
        _as_vector(_backward(eager, eager, image, dtype)),
    )


def _backward(network: nn.Module, forward: Callable[..., Any], images: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Return the clipped gradients of the network's parameters."""
    network.train().zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        segmentation, classification = forward(images)
    (_loss(segmentation) + _loss(classification)).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def _loss(logits: Tensor) -> Tensor:
    """Compute the cross-entropy with targets that are 0 and 1 by turns."""
    targets = torch.arange(logits[0].numel(), device=logits.device).remainder(2).view_as(logits[:1]).expand_as(logits)
    # At least float32, as the trainer computes it.
    precision = torch.promote_types(logits.dtype, torch.float32)
    return F.binary_cross_entropy_with_logits(logits.to(precision), targets.to(precision))
