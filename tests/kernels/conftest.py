"""Run the Triton kernels on the GPU if there is one, else in Triton's interpreter."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.kernels.fences import fenced

# Known at import, because pytest.mark.skipif needs it there.
ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    # Triton's interpreter exists only where tests/conftest.py has chosen it, before Triton was imported.
    from tests.helpers import interpreter

    interpreter.prepare()


@pytest.fixture
def device() -> torch.device:
    """Return the device that the kernels run on."""
    return torch.device("cuda" if ON_GPU else "cpu")


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill torch.empty with NaN, so that what a kernel forgets to write is seen."""
    # Deterministic mode does this. With warn_only, operators that have no deterministic form run all the same.
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """Keep float32 references from being computed with the 10 bits of TF32: a kernel may err twice as much as they."""
    # Not by monkeypatch, which deletes what is no attribute of the object itself.
    libraries: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [library.allow_tf32 for library in libraries]
    for library in libraries:
        library.allow_tf32 = False
    yield
    for library, allowed in zip(libraries, before, strict=True):
        library.allow_tf32 = allowed


@pytest.fixture
def fences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fence all launches: reading or writing outside a tensor fails the test."""
    from kernels.attention import triton_launch as attention
    from kernels.dilated import triton_launch as dilated

    monkeypatch.setattr(attention, "launch_forward", fenced(attention.launch_forward))
    monkeypatch.setattr(attention, "launch_backward", fenced(attention.launch_backward))
    monkeypatch.setattr(dilated, "launch", fenced(dilated.launch))
