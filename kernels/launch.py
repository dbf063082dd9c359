"""Share the settings that every launch and every ahead-of-time compilation of a kernel has in common."""

from typing import Any

import torch


def compiler_options(warps: int, stages: int) -> dict[str, Any]:
    """Return the options that Triton compiles a kernel with."""
    # Fusion of multiply and add is named because its default changes in Triton 3.10.
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def dot_precision(dtype: torch.dtype) -> str:
    """Return the input precision of the matrix products for tensors of `dtype`."""
    # TF32 would exceed the error bound, which for float32 is twice the error of eager PyTorch in float32.
    return "ieee" if dtype == torch.float32 else "tf32"
