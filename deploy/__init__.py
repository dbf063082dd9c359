"""Simplify, export, build, verify, serve and query: the network on its way from a checkpoint to an answer."""
