"""Prepare Triton's interpreter for the tests: repair an error and remove two costs."""

import dataclasses
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as triton_interpreter


def prepare() -> None:
    """Apply all changes to the interpreter of this process."""
    _repair_bfloat16_products()
    _patch_each_function_once()
    # The check for overflow doubles the cost of every integer operation. Without it they wrap, as on a GPU.
    builder = triton_interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)


def _repair_bfloat16_products() -> None:
    """Multiply bfloat16 matrices as floats."""
    # The interpreter keeps bfloat16 values as their 16 bits and would multiply those as integers.
    original = triton_interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return original(self, _as_float32(a), _as_float32(b), *rest)

    triton_interpreter.InterpreterBuilder.create_dot = create_dot


def _as_float32(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    # bfloat16 is the upper half of float32.
    bits = handle.data.astype(np.uint32) << 16
    return triton_interpreter.TensorHandle(bits.view(np.float32), tl.float32)


def _patch_each_function_once() -> None:
    """Replace the language of each function once and not at every call."""
    # Every call of a helper function would do it again, which is half of a small kernel's time.
    original = triton_interpreter.InterpretedFunction.__call__
    patched: set[Any] = set()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.fn in patched:
            return self.rewrite()(*args, **kwargs)
        patched.add(self.fn)
        return original(self, *args, **kwargs)

    triton_interpreter.InterpretedFunction.__call__ = call
