"""Count the bytes that the reference moves as PyTorch runs it.

Each operator reads its inputs and writes its outputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MovedBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Add up the bytes of all operators that are not views.

    total: bytes read and written so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        # A view moves nothing.
        if not any(output.alias_info for output in function._schema.returns):
            self.total += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, Tensor))
        return made


def unfused_bytes(reference: Callable[..., Tensor], *shapes: tuple[int, ...]) -> int:
    """Count the bytes of one call on half-precision tensors of these shapes."""
    # Meta tensors have shapes and no values, so nothing is computed.
    tensors = [torch.empty(shape, dtype=torch.float16, device="meta") for shape in shapes]
    moved = MovedBytes()
    with moved, torch.no_grad():
        reference(*tensors)
    return moved.total
