"""Without a GPU, Triton interprets its kernels: it decides when it is imported, for the whole process."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
