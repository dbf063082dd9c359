"""Measure what this project claims about speed and memory (see README.md for the figures)."""

# Title of the engine that the tables compare the others with. Here, so that the report needs no engine to be imported.
BASELINE = "plain export, ONNX Runtime fp32"
