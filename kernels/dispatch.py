"""Choose which implementation of an operation runs, and with what compiler options it is launched."""

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

Impl = Literal["auto", "reference", "triton"]
_IMPLS = ("auto", "reference", "triton")
OLDEST = (8, 0)  # compute capability of the first GPUs that the kernels are made for
_log = logging.getLogger(__name__)


class KernelInputError(ValueError):
    """Report an argument that breaks a rule of the operation.

    The message states the rule and the values found.
    """


def require(holds: bool, rule: str) -> None:
    """Raise `KernelInputError(rule)` unless `holds`."""
    if not holds:
        raise KernelInputError(rule)


def require_tensors(**values: object) -> None:
    """Raise `KernelInputError` for an argument that is no tensor, by its name."""
    for name, value in values.items():
        require(isinstance(value, Tensor), f"{name} must be a tensor, got {type(value).__name__}")


def require_whole(**values: object) -> None:
    """Raise `KernelInputError` for an argument that is no whole number, by its name."""
    for name, value in values.items():
        # What a compiler traces has a type of its own. True is an Integral, and surely a mistake.
        whole = isinstance(value, (Integral, torch.SymInt)) and not isinstance(value, bool)
        require(whole, f"{name} must be a whole number, got {value!r}")


def choose(impl: str, operation: str, device: torch.device, refusal: str | None) -> bool:
    """Return True for the Triton kernel and False for the reference.

    Args:
        impl: "auto", "reference" or "triton".
        operation: name of the operation, for messages.
        device: device of the tensors.
        refusal: why the kernel cannot run, or None.

    Raises:
        KernelInputError: `impl` is unknown, or it is "triton" and there is a refusal.
    """
    require(impl in _IMPLS, f"impl must be one of {', '.join(_IMPLS)}, got {impl!r}")
    if impl == "triton":
        require(refusal is None, f"impl='triton' is not possible for {operation}: {refusal}")
        return True
    if impl == "auto" and device.type != "cuda":
        # Triton's interpreter could run the kernel on a CPU, but far too slowly for anything except tests.
        refusal = f"the tensors are on {device}"
    use_triton = impl == "auto" and refusal is None
    # A call of the logger would break the graph that torch.compile traces.
    if not torch.compiler.is_compiling():
        _log.debug("%s: %s", operation, "Triton kernel" if use_triton else f"reference, {refusal or 'as asked'}")
    return use_triton


def device_refusal(tensor: Tensor) -> str | None:
    """Return why no Triton kernel can run on this tensor's device, or None."""
    # Looked up and not imported: the reference must work on machines without Triton.
    if find_spec("triton") is None:
        return "the package triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    # An exported program only names the operator. Its device is chosen where the program runs.
    if torch.compiler.is_exporting():
        return None
    if tensor.device.type == "cuda":
        return _too_old(tensor.device)
    return f"it needs a CUDA device (or TRITON_INTERPRET=1), got {tensor.device}"


def _too_old(device: torch.device) -> str | None:
    # Before Ampere there is no tensor-core code for these kernels: they would spill 10 KB a thread.
    capability = torch.cuda.get_device_capability(device)
    return None if capability >= OLDEST else "it needs compute capability 8.0 or later, got {}.{}".format(*capability)


# A question to the driver would break the graph that torch.compile traces, so it is asked while tracing. This is what
# `torch.compiler.assume_constant_result` sets, which would import the compiler for those who never compile.
_too_old._dynamo_marked_constant = True  # type: ignore[attr-defined]


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make the tensor's GPU the current one inside the block, because Triton launches on the current one."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def compiler_options(warps: int, stages: int) -> dict[str, Any]:
    """Return the options that Triton compiles a kernel with."""
    # Fusion of multiply and add is named because its default changes in Triton 3.10.
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def dot_precision(dtype: torch.dtype) -> str:
    """Return the input precision of the matrix products for tensors of `dtype`."""
    # TF32 would exceed the error bound, which for float32 is twice the error of eager PyTorch in float32.
    return "ieee" if dtype == torch.float32 else "tf32"
