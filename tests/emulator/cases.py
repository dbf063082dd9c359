"""List what the emulator compares with float64, and compare one case.

The rule is that of the interpreter's tests: at most twice the error of eager PyTorch in the kernel's dtype.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from kernels import Impl, dilated_fusion
from kernels.aot import configurations
from kernels.aot.configurations import BACKWARD, PRESETS, TRITON_TYPES, Preset
from kernels.dilated import triton_launch
from kernels.dilated.triton_launch import Tiles, choose_tiles
from tests.kernels.accuracy import DTYPES, FACTOR, error
from tests.kernels.test_attention_accuracy import AttentionCase, gradients
from tests.kernels.test_dilated_accuracy import FusionCase

CAPABILITIES = (80, 89, 90, 120)
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Case:
    """Describe one call of an operation.

    shape: of its inputs.
    dtype: of its inputs.
    backward: whether its gradients are computed too.
    one_launch: whether the fusion has to be one kernel, as in a plugin.
    """

    shape: AttentionCase | FusionCase
    dtype: torch.dtype
    backward: bool = False
    one_launch: bool = False

    @property
    def name(self) -> str:
        """Return a name that is unique and has no blanks."""
        kind = "attention" if isinstance(self.shape, AttentionCase) else "dilated"
        shape = re.sub(r"[(), ]+", "-", str(self.shape)).strip("-")
        endings = {"-backward": self.backward, "-plugin": self.one_launch}
        return f"{kind}-{shape}-{TRITON_TYPES[self.dtype]}" + "".join(end for end, has in endings.items() if has)

    def configurations(self) -> set[str]:
        """Return the names that `kernels.aot` gives to what is launched."""
        dtype = TRITON_TYPES[self.dtype]
        if isinstance(self.shape, AttentionCase):
            shifted = "-shifted" if self.shape.shift else ""
            kernels = ("attention_forward", *(BACKWARD if self.backward else ()))
            return {f"{one}-w{self.shape.window}-d{self.shape.head_dim}{shifted}-{dtype}" for one in kernels}
        sizes, c_out = (self.shape.batch, self.shape.height, self.shape.width, self.shape.c_in), self.shape.c_out
        made = configurations.dilated_fusion(sizes, c_out, self.shape.dilations, self.dtype, one_launch=self.one_launch)
        return {one.name for one in made}

    def compare(self) -> dict[str, tuple[float, float]]:
        """Return the error of each result of the kernels, and the bound of the error."""
        inputs = self.shape.inputs(self.dtype, torch.device("cpu"))
        compute = self._results()
        exact = compute("reference", *(one.double() for one in inputs))
        pairs = zip(compute("triton", *inputs), compute("reference", *inputs), exact, strict=True)
        names = ("output", "first gradient", "second gradient")
        return {
            name: (error(got, target), FACTOR * error(usual, target))
            for name, (got, usual, target) in zip(names, pairs, strict=False)
        }

    def _results(self) -> Callable[..., list[Tensor]]:
        shape, backward = self.shape, self.backward

        def attend(impl: Impl, *inputs: Tensor) -> list[Tensor]:
            assert isinstance(shape, AttentionCase)
            return gradients(shape, inputs, impl) if backward else [shape.attend(inputs[0], inputs[1], impl)]

        def fuse(impl: Impl, *inputs: Tensor) -> list[Tensor]:
            assert isinstance(shape, FusionCase)
            tiles = partial(choose_tiles, one_launch=self.one_launch)
            with patch.object(triton_launch, "choose_tiles", tiles):
                return [dilated_fusion(*inputs, dilations=shape.dilations, impl=impl)]

        return attend if isinstance(shape, AttentionCase) else fuse


def attention(*sizes: int) -> AttentionCase:
    """Make a shape from batch, height, width, window, shift, heads and head dim."""
    names = ("batch", "height", "width", "window", "shift", "heads", "head_dim")
    return AttentionCase(**dict(zip(names, sizes, strict=True)))


def fusion(*sizes: int, dilations: tuple[int, ...] = (6, 12, 18)) -> FusionCase:
    """Make a shape from batch, height, width and the two numbers of channels."""
    names = ("batch", "height", "width", "c_in", "c_out")
    return FusionCase(**dict(zip(names, sizes, strict=True)), dilations=dilations)


# All kernels in all dtypes, at awkward sizes: H unlike W, padded columns, partial tiles of tokens, pixels and channels.
SHORT = (
    *(Case(attention(1, 7, 14, 7, 3, 2, 32), dtype, backward=True) for dtype in DTYPES),
    *(Case(attention(1, 14, 28, 14, 7, 1, 32), dtype, backward=True) for dtype in HALVES),
    Case(attention(2, 8, 12, 4, 1, 1, 16), torch.float16, backward=True),
    Case(attention(3, 8, 8, 8, 0, 1, 16), torch.float16),
    *(Case(fusion(2, 20, 13, 32, 48), dtype) for dtype in DTYPES),
    Case(fusion(1, 6, 7, 33, 70, dilations=(2, 2, 9)), torch.float16),
    # Enough tiles to need no split.
    Case(fusion(24, 9, 17, 16, 16, dilations=(1, 2)), torch.float16),
)


def of_preset(preset: Preset, dtype: torch.dtype) -> list[Case]:
    """List what a preset launches for one image, each configuration at the smallest map that it serves."""
    window = preset.image_size // 16
    # Stage 4 has one window, which is never shifted. Stage 3 has four, and half as many heads.
    heads = preset.channels // preset.head_dim
    attentions = [
        attention(1, side, side, window, shift, heads * more, preset.head_dim)
        for side, shift, more in ((window, 0, 8), (2 * window, window // 2, 4))
    ]
    stages = [(preset.image_size >> stage, preset.channels << stage - 1) for stage in (1, 2, 3, 4)]

    def smallest(batch: int, side: int, channels: int, one_launch: bool) -> Case:
        """Return the smallest fusion with the tiles of that batch. They differ with the number of programs alone."""

        def tiles(batch: int, side: int) -> Tiles:
            return choose_tiles(batch, side, side, channels, channels, dtype, one_launch)

        wanted = tiles(batch, side)
        # The split sums of one image are run on its own map.
        sizes = [(batch, side)] if batch == 1 and wanted.splits > 1 else [*((few, 16) for few in range(1, 193))]
        few, small = next((size for size in sizes if tiles(*size) == wanted), (batch, side))
        shape = fusion(few, small, small, channels, channels, dilations=preset.dilations)
        return Case(shape, dtype, one_launch=one_launch)

    # The forms of `kernels.aot.configurations`: one image, a batch, and a plugin, which is compiled in float16 alone.
    forms = [(1, False), (32, False), *([(1, True)] if dtype == torch.float16 else [])]
    fusions = [smallest(batch, *stage, one_launch) for batch, one_launch in forms for stage in stages]
    return [*(Case(one, dtype, preset.trains) for one in attentions), *fusions]


# Every configuration that is shipped: see `kernels.aot.configurations.shipped`.
PAPER = tuple(
    {
        case.name: case
        for preset in PRESETS
        for dtype in DTYPES
        if preset.trains or dtype == torch.float16
        for case in of_preset(preset, dtype)
    }.values()
)
LISTS: dict[str, tuple[Case, ...]] = {"short": SHORT, "paper": PAPER}


def outcome(case: Case, gpu: Any) -> dict[str, Any]:
    """Return what came of a case on an emulated GPU."""
    gpu.outcomes.clear()
    gpu.failure = None
    try:
        errors = case.compare()
    except RuntimeError as raised:
        return {"failure": f"{gpu.failure or raised!r}"}
    return {
        "errors": errors,
        "races": sum(one.races for one in gpu.outcomes),
        "launches": len(gpu.outcomes),
        "executed": sum(one.executed for one in gpu.outcomes),
    }
