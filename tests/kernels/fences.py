"""Place every tensor that a launch reads or writes inside a larger buffer of NaN.

A read outside a tensor shows as NaN in the result, a write outside as a lost NaN.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

MARGIN = 4096  # values on either side


class Fenced:
    """Hold a copy of `content` inside its fence."""

    def __init__(self, content: Tensor) -> None:
        self.buffer = torch.full((content.numel() + 2 * MARGIN,), torch.nan, device=content.device, dtype=content.dtype)
        self.tensor = self.buffer[MARGIN:-MARGIN].view(content.shape)
        self.tensor.copy_(content)

    def is_intact(self) -> bool:
        """Tell whether nothing has been written outside the tensor."""
        return bool(self.buffer[:MARGIN].isnan().all() and self.buffer[-MARGIN:].isnan().all())


@contextmanager
def fenced_allocations() -> Iterator[list[Fenced]]:
    """Fence what the block allocates in the ways that the launchers do, with NaN for what is empty."""
    fences: list[Fenced] = []
    plain_new_empty = Tensor.new_empty

    def fence(content: Tensor) -> Tensor:
        fences.append(Fenced(content))
        return fences[-1].tensor

    def new_empty(self: Tensor, *sizes: int, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        # The interpreter allocates empty tensors of its own.
        if sizes == (0,):
            return plain_new_empty(self, 0, device=device)
        return fence(torch.full(sizes, torch.nan, device=self.device, dtype=dtype or self.dtype))

    with pytest.MonkeyPatch.context() as patch:
        # The three ways in which the launchers allocate.
        patch.setattr(Tensor, "new_empty", new_empty)
        patch.setattr(torch, "empty_like", lambda like: fence(torch.full_like(like, torch.nan)))
        patch.setattr(torch, "zeros_like", lambda like: fence(torch.full_like(like, 0.0)))
        yield fences


def fenced(launch: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `launch` so that its arguments and results are fenced and checked."""

    def run(*arguments: Any) -> Any:
        inputs = [Fenced(one) if isinstance(one, Tensor) else one for one in arguments]
        around = [one for one in inputs if isinstance(one, Fenced)]
        with fenced_allocations() as made:
            result = launch(*(one.tensor if isinstance(one, Fenced) else one for one in inputs))
        assert made and all(one.is_intact() for one in [*around, *made])
        # A launch must not write its inputs.
        for one, given in zip(inputs, arguments, strict=True):
            assert not isinstance(one, Fenced) or torch.equal(one.tensor, given)
        return tuple(one.clone() for one in result) if isinstance(result, tuple) else result.clone()

    return run
