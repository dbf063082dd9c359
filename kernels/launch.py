"""What every launch and every ahead-of-time compilation of a kernel shares."""

from typing import Any

import torch


def compiler_options(warps: int, stages: int) -> dict[str, Any]:
    """Fusion of multiply and add is named because its default changes in Triton 3.10."""
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


def dot_precision(dtype: torch.dtype) -> str:
    """TF32 would lose float32's promise of eager's error."""
    return "ieee" if dtype == torch.float32 else "tf32"
