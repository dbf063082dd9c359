"""Let Triton interpret its kernels where there is no GPU."""

import os

import torch

# Here, before any test module imports triton: it reads the variable once, for the whole process.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
