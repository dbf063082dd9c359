"""Compare the whole network with itself: our kernels, eager PyTorch and what torch.compile makes of it.

Every contender is timed twice: launched by Python, and replayed as a CUDA graph.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.gpu.attention import MAX_AUTOTUNE
from bench.gpu.session import Reference, Run, Session
from model import PRESETS, ModelConfig, MultiTaskResFormer, build_model
from model.inference import for_inference, with_attention

TABLE = "network"
WAYS = {"": False, ", CUDA graph": True}

Compiler = Callable[..., Callable[..., Any]]
Form = Callable[[MultiTaskResFormer], nn.Module]
"""Make what runs of a trained network."""
Forms = Mapping[str, Form]


@dataclass(frozen=True, kw_only=True)
class NetworkCase:
    """Describe one batch through a network.

    name: of the preset.
    config: shape of the network.
    batch: images.
    dtype: of weights and images.
    """

    name: str
    config: ModelConfig
    batch: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.name}, batch {self.batch}, {str(self.dtype).removeprefix('torch.')}"

    def images(self, device: torch.device) -> Tensor:
        """Draw normalised images (B, 3, S, S) in float32."""
        torch.manual_seed(0)
        return torch.randn(self.batch, 3, self.config.image_size, self.config.image_size, device=device)


def _cases() -> Iterator[NetworkCase]:
    # One image at a time is what a server mostly does, so it comes first, and both presets before the second dtype.
    for dtype in (torch.float16, torch.bfloat16):
        for batch in (1, 8, 32):
            for name in ("paper-224", "paper-512"):
                yield NetworkCase(name=name, config=PRESETS[name], batch=batch, dtype=dtype)


CASES = tuple(_cases())


def launched(session: Session, cases: tuple[NetworkCase, ...] = CASES) -> None:
    """Measure the network with our kernels, and as it was trained in eager PyTorch."""
    forms: Forms = {
        "ours": lambda network: for_inference(network, session.ours),
        "eager": lambda network: with_attention(network, "reference"),
    }
    _measure(session, cases, forms)


def compiled(session: Session, cases: tuple[NetworkCase, ...] = CASES) -> None:
    """Measure torch.compile of the folded network, with our kernels in it and without."""
    forms: Forms = {
        "ours, torch.compile": lambda network: for_inference(network, session.ours),
        "torch.compile": lambda network: for_inference(network, "reference"),
    }
    _measure(session, cases, forms, session.compile)


def autotuned(session: Session, cases: tuple[NetworkCase, ...] = CASES) -> None:
    """Measure max-autotune of the folded network."""
    forms: Forms = {"max-autotune": lambda network: for_inference(network, "reference")}
    _measure(session, cases, forms, partial(session.compile, mode=MAX_AUTOTUNE))


@cache
def trained(config: ModelConfig, device: torch.device) -> MultiTaskResFormer:
    """Return a network with seeded weights and the batch norms' statistics of noise, in evaluation mode.

    Without those, activations of random weights grow from block to block until half precision overflows.
    """
    torch.manual_seed(0)
    network = build_model(config).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average of all batches, here of one
    # On the CPU, where no kernel of ours has a part in it.
    with torch.no_grad():
        network(torch.randn(1, 3, config.image_size, config.image_size))
    return network.eval().requires_grad_(False).to(device)


def _measure(session: Session, cases: tuple[NetworkCase, ...], forms: Forms, compiler: Compiler | None = None) -> None:
    torch.backends.cudnn.benchmark = True
    for case in cases:
        if session.is_over:
            session.leave_out(TABLE, str(case), forms)
            continue
        network, images = trained(case.config, session.device), case.images(session.device)
        with torch.no_grad():
            session.measure(
                TABLE,
                str(case),
                {name: partial(_run, form, network, case, images, compiler) for name, form in forms.items()},
                partial(_reference, network, case, images[:1]),
                pick=_first_image,
                ways=WAYS,
            )


def channels_last(network: nn.Module) -> nn.Module:
    """Lay out the weights of a network's convolutions as cuDNN's fastest kernels read them."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def _first_image(results: Sequence[Tensor]) -> list[Tensor]:
    return [result[:1] for result in results]


def _reference(network: MultiTaskResFormer, case: NetworkCase, image: Tensor) -> Reference:
    # The rounding of the image is not the network's error.
    rounded = image.to(case.dtype)
    exact = with_attention(network, "reference").double()(rounded.double())
    eager = with_attention(network, "reference").to(case.dtype)(rounded)
    return Reference(exact, eager, joined=True)


def _run(
    form: Form, network: MultiTaskResFormer, case: NetworkCase, images: Tensor, compiler: Compiler | None = None
) -> Run:
    # Folded in float32 and cast last, as it is exported.
    cast = channels_last(form(network).to(case.dtype))
    images = images.to(case.dtype, memory_format=torch.channels_last)
    forward = compiler(cast) if compiler else cast
    run: Run = partial(forward, images)
    return run
