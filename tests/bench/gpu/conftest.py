"""Repair Triton's interpreter for the tests that run the kernels in this process."""

import torch

if not torch.cuda.is_available():
    # The interpreter exists only where tests/conftest.py has chosen it, before Triton was imported.
    from tests.helpers import interpreter

    interpreter.prepare()
