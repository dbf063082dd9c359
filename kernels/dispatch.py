"""Which implementation runs: an explicit choice is obeyed or refused, `auto` chooses and logs why."""

import logging
import os
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from kernels.errors import require

Impl = Literal["auto", "reference", "triton"]
_IMPLS = ("auto", "reference", "triton")
_log = logging.getLogger(__name__)


def choose(impl: str, operation: str, device: torch.device, refusal: str | None) -> bool:
    """True for the Triton kernel, False for the reference; `refusal` says why the kernel can not run."""
    require(impl in _IMPLS, f"impl must be one of {', '.join(_IMPLS)}, got {impl!r}")
    if impl == "triton":
        require(refusal is None, f"impl='triton' is not possible for {operation}: {refusal}")
        return True
    if impl == "auto" and device.type != "cuda":
        refusal = f"the tensors are on {device}"  # the interpreter could run the kernel, but only a test wants that
    use_triton = impl == "auto" and refusal is None
    if not torch.compiler.is_compiling():
        _log.debug("%s: %s", operation, "Triton kernel" if use_triton else f"reference, {refusal or 'as asked'}")
    return use_triton


def device_refusal(tensor: Tensor) -> str | None:
    """Why no Triton kernel can run on this tensor's device, or None."""
    if find_spec("triton") is None:
        return "the package triton is not installed"
    if tensor.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if torch.compiler.is_exporting():
        return None  # an exported program names the operator, whoever runs it brings the device
    return f"it needs a CUDA device (or TRITON_INTERPRET=1), got {tensor.device}"
