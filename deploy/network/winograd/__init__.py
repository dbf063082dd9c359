"""Compute 3x3 convolutions of an OpenVINO graph in Winograd's form, a quarter of the multiplications.

F(4x4, 3x3) (arXiv 1509.09308): a map is cut into tiles of 4x4 outputs, and each tile is
`A^T [(G w G^T) * (B^T x B)] A`. That is 36 products for each pair of channels where the plain sum has 144. OpenVINO has
none for x86, so `convolution.cpp` is an operator that has it, which is compiled when the toolkit is installed. The
result is exact up to rounding: errors are 1e-6 to 3e-6 of the largest output.

An engine's file stays a plain OpenVINO graph, with the names of the convolutions that were faster in this form where it
was built. They are replaced when the file is opened for float32 execution, where the operator was compiled and the
processor can run it. Elsewhere OpenVINO computes them itself, and the answers are the same.
"""

from deploy.network.winograd.graph import Candidate, Shape, candidates, mark, marked, replace
from deploy.network.winograd.library import SOURCES, instructions, reason_against

__all__ = ["SOURCES", "Candidate", "Shape", "candidates", "instructions", "mark", "marked", "reason_against", "replace"]
