"""Provide the dilated branches of the DFE module as one convolution (paper, dilated feature enhancement)."""

from kernels.dilated.api import dilated_fusion
from kernels.dilated.prepare import pack_taps

__all__ = ["dilated_fusion", "pack_taps"]
