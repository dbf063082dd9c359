"""Triton's interpreter made fit for these tests: one error of it repaired, and two costs removed."""

import dataclasses
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as triton_interpreter


def prepare() -> None:
    _repair_bfloat16_products()
    _patch_each_function_once()
    # Doubles the cost of every integer operation to report overflow; operations then wrap as they do on a GPU.
    builder = triton_interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _repair_bfloat16_products() -> None:
    """The interpreter keeps bfloat16 as its 16 bits and multiplies those as integers."""
    original = triton_interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return original(self, _as_float32(a), _as_float32(b), *rest)

    triton_interpreter.InterpreterBuilder.create_dot = create_dot


def _as_float32(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    bits = handle.data.astype(np.uint32) << 16
    return triton_interpreter.TensorHandle(bits.view(np.float32), tl.float32)


def _patch_each_function_once() -> None:
    """Every call of a helper replaces the whole language again, which is half of a small kernel's time."""
    original = triton_interpreter.InterpretedFunction.__call__
    patched: set[Any] = set()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn in patched:
            return self.rewrite()(*args, **kwargs)
        patched.add(self.fn)
        return original(self, *args, **kwargs)

    triton_interpreter.InterpretedFunction.__call__ = call
