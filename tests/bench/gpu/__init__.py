"""Test `bench.gpu` on a machine without a GPU."""
