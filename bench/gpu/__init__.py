"""Measure everything that needs an NVIDIA GPU, in one command: `python -m bench.gpu`.

Nothing here, and nothing that the first steps import, needs more than torch, triton and NumPy.
"""
