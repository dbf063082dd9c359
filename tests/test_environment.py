"""Test what tests/conftest.py sets for every test."""

import os


def test_cublas_is_deterministic_where_there_is_a_gpu() -> None:
    # One of the two values that PyTorch takes: without them its deterministic mode warns, and warnings are errors here.
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")
