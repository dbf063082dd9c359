"""Count what a kernel reads, writes and multiplies, by running it in Triton's interpreter (TRITON_INTERPRET=1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder


@dataclass
class Traffic:
    """Hold what kernels have accessed and multiplied.

    loads: addresses of the elements of each load that its mask lets through, and the bytes of an element.
    stores: the same of each store.
    atomic_additions: of single values to memory.
    multiply_adds: of all matrix products.
    """

    loads: list[tuple[NDArray[np.uint64], int]] = field(default_factory=list)
    stores: list[tuple[NDArray[np.uint64], int]] = field(default_factory=list)
    atomic_additions: int = 0
    multiply_adds: int = 0

    @property
    def moved_bytes(self) -> int:
        """Return the bytes loaded from and stored to all tensors."""
        return sum(addresses.size * size for addresses, size in (*self.loads, *self.stores))

    @property
    def stored_bytes(self) -> int:
        """Return the bytes stored to all tensors."""
        return sum(addresses.size * size for addresses, size in self.stores)

    def loaded(self, tensor: Tensor) -> tuple[int, int]:
        """Return the (total, unique) bytes loaded from the tensor."""
        return _bytes_within(self.loads, tensor)

    def loaded_once(self, tensor: Tensor, count: int) -> int:
        """Return the bytes loaded from the tensor if each `count` loads in a row, a program, load none twice."""
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        inside = [kept for addresses, _ in self.loads if (kept := _between(addresses, first, last)).size]
        programs = [inside[start : start + count] for start in range(0, len(inside), count)]
        return sum(np.unique(np.concatenate(loads)).size for loads in programs) * tensor.element_size()

    def stored(self, tensor: Tensor) -> tuple[int, int]:
        """Return the (total, unique) bytes stored to the tensor."""
        return _bytes_within(self.stores, tensor)


@contextmanager
def recorded_traffic() -> Iterator[Traffic]:
    """Record everything that kernels do inside the block."""
    traffic = Traffic()
    # Masked accesses are all there are: the interpreter sends plain ones through these methods too.
    names = ("create_masked_load", "create_masked_store", "create_atomic_rmw", "create_dot")
    load, store, atomic, dot = originals = [getattr(InterpreterBuilder, name) for name in names]

    def recording_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        traffic.loads.append((pointers.data[mask.data], _itemsize(pointers)))
        return load(self, pointers, mask, *rest)

    def recording_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        traffic.stores.append((pointers.data[mask.data], _itemsize(pointers)))
        return store(self, pointers, value, mask, *rest)

    def recording_atomic(self: Any, operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        traffic.atomic_additions += int(mask.data.sum())
        return atomic(self, operation, pointers, value, mask, *rest)

    def recording_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        traffic.multiply_adds += a.data.shape[0] * a.data.shape[1] * b.data.shape[1]
        return dot(self, a, b, *rest)

    try:
        for name, recording in zip(
            names, (recording_load, recording_store, recording_atomic, recording_dot), strict=True
        ):
            setattr(InterpreterBuilder, name, recording)
        yield traffic
    finally:
        for name, original in zip(names, originals, strict=True):
            setattr(InterpreterBuilder, name, original)


def _itemsize(pointers: Any) -> int:
    return int(pointers.get_element_ty().primitive_bitwidth) // 8


def _bytes_within(accesses: list[tuple[NDArray[np.uint64], int]], tensor: Tensor) -> tuple[int, int]:
    first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    inside = [(kept, size) for addresses, size in accesses if (kept := _between(addresses, first, last)).size]
    # np.concatenate needs at least one array.
    if not inside:
        return 0, 0
    total = sum(kept.size * size for kept, size in inside)
    return total, int(np.unique(np.concatenate([kept for kept, _ in inside])).size * inside[0][1])


def _between(addresses: NDArray[np.uint64], first: int, last: int) -> NDArray[np.uint64]:
    return addresses[(addresses >= first) & (addresses < last)]
